import { formatAmount, formatCount, formatShare } from "./dedup-format.ts";
import type { DedupPairReport, DedupReport, DedupStorage, DedupUpdate } from "./dedup-report.ts";

/** The report as text for a terminal of 100 columns, as long as it has two levels of zstd. */
export function formatDedupTable(report: DedupReport): string {
  const sections = report.pairs.flatMap((pair, i) => pairLines(report, pair, i + 1));
  if (report.pairs.length > 1) {
    const { update, atRest } = report.sum;
    sections.push("", `SUM OF ${report.pairs.length} UPDATES: ${counts(update)}`);
    sections.push(...updateLines(report, update));
    sections.push("", `at rest, everything: ${formatCount(atRest.paths, "path")}`);
    sections.push(...storageLines(report, [["all", atRest]]));
  }
  return `${[`${report.cache}`, ...sections].join("\n")}\n`;
}

function pairLines(report: DedupReport, pair: DedupPairReport, number: number): string[] {
  const { atRest, update, unchanged } = pair;
  const storages: [string, DedupStorage][] = [
    ["old", atRest.old],
    ["new", atRest.new],
    ["both", atRest.both],
  ];
  return [
    ...["", `UPDATE ${number}: ${counts(update)}, ${unchanged.paths} unchanged`],
    `  from ${pair.old ?? "nothing"}`,
    `    to ${pair.new}`,
    ...updateLines(report, update),
    ...["", "at rest"],
    ...storageLines(report, pair.old === undefined ? storages.slice(1, 2) : storages),
  ];
}

function counts({ paths }: DedupUpdate): string {
  return formatCount(paths, "new path");
}

/** What a client downloads. Percentages are of the NARs as served, metadata included. */
function updateLines({ cuts, zstdLevels }: DedupReport, update: DedupUpdate): string[] {
  const { servedBytes, narBytes } = update;
  const share = (bytes: number) => formatShare(bytes, servedBytes);
  const blank = zstdLevels.flatMap(() => ["", "", ""]).slice(2);
  const rows = cuts.map(({ id, title }) => {
    const amount = update.cuts[id];
    const cells = zstdLevels.flatMap((_, i) => {
      const bytes = (amount?.zstdBytes[i] ?? 0) + (amount?.metadataBytes ?? 0);
      return [formatAmount(bytes), share(bytes), share(amount?.freeChoiceBytes[i] ?? 0)];
    });
    return [title, formatAmount(amount?.bytes ?? 0), ...cells];
  });
  return alignLines([
    ["download", "raw", ...zstdLevels.flatMap((level) => [`zstd-${level}`, "", "free"])],
    ["NARs", formatAmount(narBytes), "", ...blank],
    ["NARs as served", "", formatAmount(servedBytes), share(servedBytes), ...blank.slice(1)],
    ...rows,
    [
      ...["best of all, per path", "", formatAmount(update.freeChoiceBytes)],
      ...[share(update.freeChoiceBytes), ...blank.slice(1)],
    ],
  ]);
}

/** What a store takes, at the first level of zstd. */
function storageLines(
  { cuts, zstdLevels }: DedupReport,
  storages: readonly (readonly [string, DedupStorage])[],
): string[] {
  const row = (title: string, of: (storage: DedupStorage) => number) => [
    title,
    ...storages.flatMap(([, storage]) => {
      return [formatAmount(of(storage)), formatShare(of(storage), storage.servedBytes)];
    }),
  ];
  return alignLines([
    [`kept (zstd-${zstdLevels[0]})`, ...storages.flatMap(([name]) => [name, ""])],
    row("NARs", ({ narBytes }) => narBytes),
    row("NARs as served", ({ servedBytes }) => servedBytes),
    ...cuts.map(({ id, title }) =>
      row(title, (storage) => {
        const { zstdBytes, metadataBytes } = storage.cuts[id] ?? { zstdBytes: [] };
        return (zstdBytes[0] ?? 0) + (metadataBytes ?? 0);
      }),
    ),
  ]);
}

/** The first column to the left, the others to the right. */
function alignLines(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, i) =>
    Math.max(...rows.map((row) => (row[i] ?? "").length)),
  );
  return rows.map((row) => {
    const cells = row.map((cell, i) => {
      const width = widths[i] ?? 0;
      return i === 0 ? cell.padEnd(width) : cell.padStart(width);
    });
    return `  ${cells.join("  ")}`.trimEnd();
  });
}
