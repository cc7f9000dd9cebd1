import { type Bar, barChart, type Dot, scatterChart } from "./dedup-charts.ts";
import { CASTORE_CUT_ID, DEDUP_CUTS } from "./dedup-cut.ts";
import { formatAmount, formatCount, formatShare } from "./dedup-format.ts";
import { type Markup, markup } from "./dedup-markup.ts";
import { PAGE_SCRIPT, PAGE_STYLE } from "./dedup-page-assets.ts";
import type {
  DedupAmount,
  DedupPairReport,
  DedupPathUpdate,
  DedupReport,
  DedupStorage,
  DedupUpdate,
} from "./dedup-report.ts";

/** Paths in a table; all are in the JSON. */
export const PAGE_ROWS_MAX = 100;
/** Dots in a chart: the largest paths. */
export const PAGE_DOTS_MAX = 2_000;

/** An update, seen at one level of zstd. */
interface View {
  readonly report: DedupReport;
  /** undefined: the sum of all pairs. */
  readonly pair: DedupPairReport | undefined;
  /** Index of the level. */
  readonly level: number;
}

/**
 * The report as one HTML page that needs nothing else: no network, and without scripts it shows
 * the first view. Names in the report are data, never markup.
 */
export function renderDedupPage(report: DedupReport): string {
  const pairs = [...(report.pairs.length > 1 ? [undefined] : []), ...report.pairs];
  const views = pairs.flatMap((pair) =>
    report.zstdLevels.map((_, level): View => ({ report, pair, level })),
  );
  const sections = views.map(
    (view, i) => markup`<section class="view" id="${viewId(view)}"${hiddenUnless(i === 0)}>
${viewOf(view)}</section>
`,
  );
  const policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";
  return markup`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Deduplication of ${report.cache}</title>
<style>${{ html: PAGE_STYLE }}</style></head><body><main>
<h1>What deduplication would save</h1>
<p class="soft">Measured on <code>${report.cache}</code> by <code>castore bench dedup</code>.</p>
${chooser(report, pairs)}
${sections}
${explanation()}
</main><script>${{ html: PAGE_SCRIPT }}</script></body></html>
`.html;
}

function hiddenUnless(isShown: boolean): Markup {
  return { html: isShown ? "" : " hidden" };
}

function viewId({ report, pair, level }: View): string {
  return `view-${pairId(report, pair)}-${report.zstdLevels[level]}`;
}

function pairId({ pairs }: DedupReport, pair: DedupPairReport | undefined): string {
  return pair === undefined ? "sum" : String(pairs.indexOf(pair) + 1);
}

function chooser(report: DedupReport, pairs: readonly (DedupPairReport | undefined)[]): Markup {
  const pairOptions = pairs.map((pair) => {
    const title =
      pair === undefined
        ? `all ${report.pairs.length} updates`
        : `${pairId(report, pair)}: ${nameOf(pair.old ?? "nothing")} → ${nameOf(pair.new)}`;
    return markup`<option value="${pairId(report, pair)}">${title}</option>`;
  });
  const levelOptions = report.zstdLevels.map(
    (level) => markup`<option value="${level}">zstd level ${level}</option>`,
  );
  return markup`<form class="choose">
<label>Update <select>${pairOptions}</select></label>
<label>Parts compressed with <select>${levelOptions}</select></label></form>`;
}

function viewOf(view: View): Markup {
  const { report, pair } = view;
  const update = pair?.update ?? report.sum.update;
  const shown = pair === undefined ? report.pairs : [pair];
  const paths = shown.flatMap((each) =>
    each.paths.map((path) => ({ ...path, name: rowName(view, each, path) })),
  );
  return markup`${routeOf(pair)}
${tiles(view, update)}
<h2>An update</h2>
<p>What a client downloads that has all of the old closure. The line is what plain Nix downloads:
the NARs as the cache serves them, ${formatAmount(update.servedBytes)}.</p>
${updateChart(view, update)}
<h2>Path by path</h2>
<p>Each dot is a new path: what its NAR takes as served, and what it takes in
${titleOf(CASTORE_CUT_ID)}. On the line both are equal; far below it the path hardly changed, above
it a client had better take the NAR.</p>
${pathChart(view, paths)}
<h2>At rest</h2>
<p>What a server keeps. The line is the NARs as served.</p>
${storageChart(view)}
<h2>The largest new paths</h2>
${pathTable(view, paths)}`;
}

/** A path that a chart or table names. */
interface NamedPath extends DedupPathUpdate {
  readonly name: string;
}

/** In a sum, several updates may bring paths of the same name. */
function rowName({ report, pair }: View, from: DedupPairReport, path: DedupPathUpdate): string {
  const name = nameOf(path.storePath);
  return pair === undefined ? `${name} (${pairId(report, from)})` : name;
}

function routeOf(pair: DedupPairReport | undefined): Markup {
  if (pair === undefined) return markup``;
  const from = pair.old ?? "nothing: a first download";
  return markup`<p class="soft">from <code>${from}</code><br>to <code>${pair.new}</code></p>`;
}

function tiles({ report, pair, level }: View, update: DedupUpdate): Markup {
  const { servedBytes, narBytes, paths, freeChoiceBytes } = update;
  const castore = update.cuts[CASTORE_CUT_ID]?.freeChoiceBytes[level] ?? 0;
  const of = (bytes: number) => `${formatShare(bytes, servedBytes)} of that`;
  const kept = pair === undefined ? "" : `, ${formatCount(pair.unchanged.paths, "path")} unchanged`;
  const all = [
    ["", "plain Nix downloads", formatAmount(servedBytes), `raw: ${formatAmount(narBytes)}`],
    [
      ...["main", "castore/1 downloads", formatAmount(castore)],
      `${of(castore)}, with zstd-${report.zstdLevels[level]}`,
    ],
    ["", "best way for each path", formatAmount(freeChoiceBytes), of(freeChoiceBytes)],
    ["", "new paths", paths.toLocaleString("en"), `in the new closure${kept}`],
  ] as const;
  return markup`<div class="tiles">${all.map(
    ([style, title, value, note]) =>
      markup`<div class="tile ${style}"><span>${title}</span><strong>${value}</strong>
<small>${note}</small></div>`,
  )}</div>`;
}

function updateChart({ level }: View, update: DedupUpdate): Markup {
  const { servedBytes, narBytes } = update;
  const plain: Bar = {
    title: "NARs as served",
    parts: [{ bytes: servedBytes, style: "plain" }],
    note: `${formatAmount(servedBytes)} · raw ${formatAmount(narBytes)}`,
  };
  const bars = DEDUP_CUTS.map(({ id, title }): Bar => {
    const amount = update.cuts[id];
    const always = wireBytes(amount, level);
    const best = amount?.freeChoiceBytes[level] ?? 0;
    const raw = formatShare(amount?.bytes ?? 0, narBytes);
    const shares = [best, always].map((bytes) => formatShare(bytes, servedBytes));
    return {
      title,
      parts: [
        { bytes: best, style: "best" },
        { bytes: always - best, style: "over" },
      ],
      note: `${shares[0]} · always ${shares[1]} · raw ${raw}`,
      isMain: id === CASTORE_CUT_ID,
    };
  });
  const chart = barChart([plain, ...bars], {
    label: "Bytes of an update by the way they are downloaded",
    whole: servedBytes,
  });
  return markup`${chart}<div class="key"><span><i class="best"></i>where a path may also be taken as
its NAR</span><span><i class="over"></i>more where it may not</span><span><i class="plain"></i>plain
Nix</span><span>raw: missing bytes of the raw NARs, before compression</span></div>`;
}

function pathChart({ level }: View, paths: readonly NamedPath[]): Markup {
  const largest = bySize(paths).slice(0, PAGE_DOTS_MAX);
  const dots = largest.map((path): Dot => {
    const y = wireBytes(path.cuts[CASTORE_CUT_ID], level);
    const style = y < path.servedBytes ? "best" : "over";
    return { title: path.name, x: path.servedBytes, y, style };
  });
  return scatterChart(dots, {
    label: "Bytes of each new path, as its NAR and in chunks",
    xTitle: "NAR as served",
    yTitle: "missing chunks",
  });
}

function storageChart({ report, pair, level }: View): Markup {
  const whole = pair?.atRest.both ?? report.sum.atRest;
  const first = pair?.old === undefined ? undefined : pair.atRest.old;
  const bar = (title: string, of: (storage: DedupStorage) => number, isMain = false): Bar => {
    const [all, old] = [of(whole), first === undefined ? of(whole) : of(first)];
    const added = first === undefined ? "" : ` · +${formatAmount(all - old)}`;
    return {
      title,
      parts: [
        { bytes: old, style: "best" },
        { bytes: all - old, style: "rest" },
      ],
      note: `${formatAmount(all)} · ${formatShare(all, whole.servedBytes)}${added}`,
      isMain,
    };
  };
  const chart = barChart(
    [
      bar("raw NARs", ({ narBytes }) => narBytes),
      bar("NARs as served", ({ servedBytes }) => servedBytes),
      ...DEDUP_CUTS.map(({ id, title }) =>
        bar(title, ({ cuts }) => wireBytes(cuts[id], level), id === CASTORE_CUT_ID),
      ),
    ],
    { label: "Bytes at rest by the way they are kept", whole: whole.servedBytes },
  );
  if (first === undefined) return chart;
  return markup`${chart}<div class="key"><span><i class="best"></i>the old closure</span>
<span><i class="rest"></i>+ what the new one adds to it</span></div>`;
}

function pathTable(view: View, paths: readonly NamedPath[]): Markup {
  const cuts = DEDUP_CUTS.filter(({ isNormal }) => isNormal);
  const rows = bySize(paths).slice(0, PAGE_ROWS_MAX);
  const heads = ["path", "raw NAR", "as served", ...cuts.map(({ sizes }) => cutHead(sizes))];
  const left = paths.length - rows.length;
  const rest =
    left > 0 ? markup`<p class="soft">${formatCount(left, "more path")} in the JSON.</p>` : "";
  return markup`<p>Normalised parts, with what must be said about them, in percent of the
NAR as served.</p>
<div class="wide"><table><thead><tr>${[...heads, "best way"].map(
    (head) => markup`<th><button type="button">${head}</button></th>`,
  )}</tr></thead><tbody>${rows.map((path) => pathRow(view, path))}</tbody></table></div>
<p class="soft">${rest}</p>`;
}

function cutHead(sizes: { readonly average: number } | undefined): string {
  return sizes === undefined ? "files" : `${sizes.average >> 10} KiB`;
}

function pathRow({ level }: View, path: NamedPath): Markup {
  const { name, storePath, narBytes, servedBytes, freeChoice } = path;
  const cuts = DEDUP_CUTS.filter(({ isNormal }) => isNormal);
  const shares = cuts.map(({ id }) => {
    const share = wireBytes(path.cuts[id], level) / servedBytes;
    return markup`<td data-value="${share.toFixed(6)}">${formatShare(share, 1)}</td>`;
  });
  const best = freeChoice.bytes / servedBytes;
  return markup`<tr><td title="${storePath}">${name}</td>
<td data-value="${narBytes}">${formatAmount(narBytes)}</td>
<td data-value="${servedBytes}">${formatAmount(servedBytes)}</td>${shares}
<td data-value="${best.toFixed(6)}">${wayTitle(freeChoice.way)}: ${formatShare(best, 1)}</td></tr>
`;
}

/** As zstd frames, with the directories and recipes that tell what to do with them. */
function wireBytes(amount: DedupAmount | undefined, level: number): number {
  return (amount?.zstdBytes[level] ?? 0) + (amount?.metadataBytes ?? 0);
}

function bySize(paths: readonly NamedPath[]): readonly NamedPath[] {
  return paths.toSorted((a, b) => b.servedBytes - a.servedBytes);
}

/** A store path without directory and hash. */
function nameOf(path: string): string {
  return path.replace(/^.*\//, "").replace(/^[0-9a-z]{32}-/, "");
}

function titleOf(id: string): string {
  return DEDUP_CUTS.find((cut) => cut.id === id)?.title ?? id;
}

function wayTitle(way: string): string {
  const [id = "", level] = way.split("@");
  return level === undefined ? "the NAR" : `${titleOf(id)}, zstd-${level}`;
}

function explanation(): Markup {
  return markup`<h2>How to read this</h2>
<p><b>Three denominators.</b> Percentages of raw NARs flatter every deduplication, as nobody
downloads raw NARs. Percentages here are of the NARs as this cache serves them, unless “raw”
stands beside them. An update is the number that users feel; at rest is the one that operators
pay.</p>
<p><b>Normalised</b> means: the hashes of store paths that a file mentions are replaced before it is
cut, so that a rebuild that changed nothing else is found to be the same. castore/1 does that, with
chunks around 256 KiB. Directories and recipes are counted uncompressed and in full for each new
path.</p>
<p><b>Not modelled:</b> the time and number of requests, packs of chunks, deltas against an old
file, dictionaries, what else a client may have, and what a cache keeps besides these closures. If
the NARs are served with weak compression or none, any chunking looks better than it would against
xz.</p>`;
}
