import { formatAmount, formatShare } from "./dedup-format.ts";
import { type Markup, markup } from "./dedup-markup.ts";

/** A bar in parts, from left to right, and what stands beside it. */
export interface Bar {
  readonly title: string;
  readonly parts: readonly { readonly bytes: number; readonly style: string }[];
  /** Behind the bar, in words. */
  readonly note: string;
  readonly isMain?: boolean;
}

export interface BarChartOptions {
  /** What the chart shows, for those who do not see it. */
  readonly label: string;
  /** Where the line at 100 % stands. */
  readonly whole: number;
}

/** Horizontal bars in one scale, with a line at 100 %. */
export function barChart(bars: readonly Bar[], { label, whole }: BarChartOptions): Markup {
  const sumOf = ({ parts }: Bar) => parts.reduce((sum, { bytes }) => sum + bytes, 0);
  const most = Math.max(whole, ...bars.map(sumOf), 1);
  const percent = (bytes: number) => ((100 * bytes) / most).toFixed(2);
  const rows = bars.map(
    (bar) => markup`<div class="bar${bar.isMain === true ? " main" : ""}">
<span class="title">${bar.title}</span>
<span class="track">${bar.parts.map(
      ({ bytes, style }) =>
        markup`<i class="${style}" style="width:${percent(bytes)}%"
title="${formatAmount(bytes)}"></i>`,
    )}<b class="whole" style="left:${percent(whole)}%"></b></span>
<span class="note">${bar.note}</span></div>
`,
  );
  return markup`<div class="bars" role="img" aria-label="${label}">${rows}</div>`;
}

export interface Dot {
  readonly title: string;
  readonly x: number;
  readonly y: number;
  readonly style: string;
}

const WIDTH = 860;
const HEIGHT = 380;
const LEFT = 70;
const RIGHT = 34;
const TOP = 12;
const BOTTOM = 44;

export interface ScatterOptions {
  readonly label: string;
  readonly xTitle: string;
  readonly yTitle: string;
}

/** Bytes against bytes, both axes logarithmic from 100 B on, with the line where they are equal. */
export function scatterChart(dots: readonly Dot[], options: ScatterOptions): Markup {
  const { label, xTitle, yTitle } = options;
  const least = 2;
  const most = Math.max(
    5,
    ...dots.map(({ x, y }) => Math.ceil(Math.log10(Math.max(x, y, 1)) - 1e-9)),
  );
  const part = (bytes: number) =>
    (Math.max(Math.log10(Math.max(bytes, 1)), least) - least) / (most - least);
  const xOf = (bytes: number) => LEFT + part(bytes) * (WIDTH - LEFT - RIGHT);
  const yOf = (bytes: number) => HEIGHT - BOTTOM - part(bytes) * (HEIGHT - TOP - BOTTOM);
  const ticks = Array.from({ length: most - least + 1 }, (_, i) => 10 ** (least + i));
  const at = (value: number) => value.toFixed(1);
  const grid = ticks.map(
    (tick) => markup`<path class="grid" d="M${at(xOf(tick))} ${TOP}V${HEIGHT - BOTTOM}"/>
<path class="grid" d="M${LEFT} ${at(yOf(tick))}H${WIDTH - RIGHT}"/>
<text x="${at(xOf(tick))}" y="${HEIGHT - BOTTOM + 16}" text-anchor="middle">
${tickText(tick)}</text>
<text x="${LEFT - 8}" y="${at(yOf(tick) + 4)}" text-anchor="end">${tickText(tick)}</text>
`,
  );
  const marks = dots.map(({ title, x, y, style }) => {
    const text = `${title}: ${formatAmount(x)} → ${formatAmount(y)} (${formatShare(y, x)})`;
    return markup`<circle class="${style}" cx="${at(xOf(x))}" cy="${at(yOf(y))}" r="4">
<title>${text}</title></circle>
`;
  });
  const [low, high] = [10 ** least, 10 ** most].map(
    (bytes) => `${at(xOf(bytes))} ${at(yOf(bytes))}`,
  );
  const middle = (TOP + HEIGHT - BOTTOM) / 2;
  return markup`<div class="wide"><svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img"
aria-label="${label}">
${grid}<path class="equal" d="M${low ?? ""}L${high ?? ""}"/>
${marks}<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 6}" text-anchor="middle"
class="axis">${xTitle}</text>
<text transform="translate(14 ${middle}) rotate(-90)" text-anchor="middle"
class="axis">${yTitle}</text>
</svg></div>`;
}

function tickText(bytes: number): string {
  return formatAmount(bytes).replace(".00", "").replace(".0", "");
}
