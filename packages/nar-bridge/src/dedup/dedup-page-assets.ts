/** Colours are those of one palette, told apart without red and green. */
export const PAGE_STYLE = `
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#59636e;--line:#d9dee3;--paper:#fff;
--panel:#f6f8fa;--main:#0b63ce;--pale:#a9c9f2;--plain:#8b949e;--over:#d9822b}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa5b1;--line:#343b44;--paper:#0f1318;
--panel:#171c23;--main:#58a6ff;--pale:#27507f;--plain:#6e7781;--over:#e3a04f}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:980px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;line-height:1.2;margin:0 0 4px}h2{font-size:19px;margin:36px 0 4px}
p{margin:4px 0 12px;max-width:74ch}.soft,.note,small{color:var(--soft)}
code{font:13px/1.4 ui-monospace,monospace;overflow-wrap:anywhere}
.choose{position:sticky;top:0;z-index:1;display:flex;flex-wrap:wrap;gap:8px 18px;padding:10px 0;
background:var(--paper);border-bottom:1px solid var(--line);margin-top:14px}
select{font:inherit;color:inherit;background:var(--panel);border:1px solid var(--line);
border-radius:6px;padding:4px 8px;max-width:min(60vw,520px)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:12px;margin:18px 0}
.tile{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:12px 14px}
.tile strong{display:block;font-size:25px;line-height:1.25;font-variant-numeric:tabular-nums}
.tile.main strong{color:var(--main)}
.bars{margin:10px 0 6px}
.bar{display:grid;grid-template-columns:250px 1fr 225px;gap:12px;align-items:center;min-height:30px}
.bar .title{text-align:right;line-height:1.2}.bar.main .title{font-weight:600}
.bar .note{font-size:13px;font-variant-numeric:tabular-nums}
.track{position:relative;height:18px;display:flex;background:var(--panel);border-radius:3px}
.track i{height:100%;min-width:1px}.whole{position:absolute;top:-6px;bottom:-6px;width:0;
border-left:2px dashed var(--ink);opacity:.55}
.plain{background:var(--plain);fill:var(--plain)}.best{background:var(--main);fill:var(--main)}
.rest{background:var(--pale);fill:var(--pale)}.over{background:var(--over);fill:var(--over)}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13px;color:var(--soft)}
.key i{display:inline-block;width:12px;height:12px;border-radius:2px;margin-right:6px;
vertical-align:-1px}
svg{width:100%;min-width:620px;height:auto;display:block}svg text{fill:var(--soft);font-size:12px}
svg .axis{fill:var(--ink)}.grid{stroke:var(--line);fill:none}
.equal{stroke:var(--ink);stroke-dasharray:5 4;opacity:.55;fill:none}circle{fill-opacity:.65}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13px}
th,td{padding:4px 8px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap;
font-variant-numeric:tabular-nums}
th:first-child,td:first-child{text-align:left;max-width:270px;overflow:hidden;
text-overflow:ellipsis}
th button{font:inherit;font-weight:600;color:inherit;background:none;border:0;padding:0;
cursor:pointer}th[aria-sort=ascending] button::after{content:" ↑"}
th[aria-sort=descending] button::after{content:" ↓"}
@media(max-width:760px){.bar{grid-template-columns:1fr;gap:2px;margin-bottom:10px}
.bar .title{text-align:left}}
`;

/** Chooses the view that is shown, and keeps it in the URL; sorts tables by a column. */
export const PAGE_SCRIPT = `
"use strict";
const selects = [...document.querySelectorAll(".choose select")];
const views = [...document.querySelectorAll(".view")];
function show() {
  const id = "view-" + selects.map((select) => select.value).join("-");
  for (const view of views) view.hidden = view.id !== id;
}
function choose() {
  const values = location.hash.slice(1).split("-");
  selects.forEach((select, i) => {
    if ([...select.options].some((option) => option.value === values[i])) select.value = values[i];
  });
  show();
}
for (const select of selects) select.addEventListener("change", () => {
  history.replaceState(null, "", "#" + selects.map((other) => other.value).join("-"));
  show();
});
addEventListener("hashchange", choose);
choose();
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const column = head.cellIndex;
    const sign = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
    const body = head.closest("table").tBodies[0];
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const order = (a, b) => column === 0
      ? -sign * value(a).localeCompare(value(b))
      : sign * (value(a) - value(b));
    body.append(...[...body.rows].sort(order));
  });
}
`;
