import { createHash } from "node:crypto";

const STYLE = `
  :root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
  body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.4rem; }
  table { border-collapse: collapse; width: 100%; }
  th, td { text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #8884; }
  td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
  td.stage { overflow-wrap: anywhere; }
  tr.failed td.stage { color: #c33; font-weight: 600; }
`;

/** Fetches the list every second; writes it as text only, since machines send what they like. */
const SCRIPT = `
  const rows = document.querySelector("tbody");
  const note = document.querySelector("#note");
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const size = (bytes) => {
    let at = 0;
    for (; bytes >= 1024 && at < units.length - 1; at++) bytes /= 1024;
    return (at === 0 ? bytes : bytes.toFixed(1)) + " " + units[at];
  };
  const time = (ms) => {
    const s = Math.max(0, Math.round(ms / 1000));
    return s < 120 ? s + " s" : Math.round(s / 60) + " min";
  };
  const cell = (text, kind) => {
    const td = document.createElement("td");
    td.textContent = text;
    td.className = kind;
    return td;
  };
  async function show() {
    try {
      const machines = await (await fetch("machines")).json();
      const now = Date.now();
      rows.replaceChildren(...machines.map((it) => {
        const row = document.createElement("tr");
        if (it.stage.startsWith("failed")) row.className = "failed";
        row.append(
          cell(it.name, ""), cell(it.address, ""), cell(it.stage, "stage"),
          cell(time(now - it.stageSince), "number"), cell(time(now - it.since), "number"),
          cell(size(it.bootBytes), "number"), cell(size(it.storeBytes), "number"),
          cell(it.storeRequests, "number"));
        return row;
      }));
      note.textContent = machines.length === 0 ? "No machine has booted from here yet." : "";
    } catch {
      note.textContent = "The server does not answer.";
    }
    setTimeout(show, 1000);
  }
  show();
`;

const sourceOf = (text: string) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;

/** Nothing but the page's own style and script, and the list. */
export const PAGE_POLICY = [
  "default-src 'none'",
  "connect-src 'self'",
  "img-src data:",
  `style-src ${sourceOf(STYLE)}`,
  `script-src ${sourceOf(SCRIPT)}`,
].join("; ");

/** A page that shows which machine boots what, how far it is, and what it was sent. */
export function statusPage(): string {
  const numbers = ["for", "since", "kernel and initrd", "store", "requests"];
  const heads = numbers.map((name) => `<th class="number">${name}</th>`).join("");
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,">
<title>Machines that boot from here</title>
<style>${STYLE}</style>
</head>
<body>
<h1>Machines that boot from here</h1>
<table>
<thead><tr><th>machine</th><th>address</th><th>does</th>${heads}</tr></thead>
<tbody></tbody>
</table>
<p id="note"></p>
<script>${SCRIPT}</script>
</body>
</html>
`;
}
