import { loadavg } from "node:os";
import type { Group, Measures } from "./benchmark.ts";

export interface CaseReport {
  readonly name: string;
  readonly medians: Measures;
  readonly runs: readonly Measures[];
  /** Median seconds by the first case's, and what it may be at most. */
  readonly ratio: number;
  readonly target?: number;
  /** Medians that are above their limit, as text. */
  readonly exceeded: readonly string[];
}

export interface GroupReport {
  readonly name: string;
  readonly cases: readonly CaseReport[];
  readonly loadBefore: number;
  readonly loadAfter: number;
  /** No target and no limit is exceeded. */
  readonly isMet: boolean;
}

/** Runs A B C, B C A, C A B, …: what the machine does meanwhile falls on all cases alike. */
export async function runGroup(group: Group, runs: number): Promise<GroupReport> {
  const loadBefore = loadavg()[0] ?? 0;
  const measured = new Map<string, Measures[]>(group.cases.map(({ name }) => [name, []]));
  for (let round = 0; round < runs; round++) {
    const first = round % group.cases.length;
    for (const entry of [...group.cases.slice(first), ...group.cases.slice(0, first)]) {
      measured.get(entry.name)?.push(await entry.measure());
    }
  }
  const medians = new Map([...measured].map(([name, all]) => [name, mediansOf(all)]));
  const base = medians.get(group.cases[0]?.name ?? "")?.seconds ?? Number.NaN;
  const cases = group.cases.map(({ name }): CaseReport => {
    const own = medians.get(name) ?? {};
    const target = group.targets?.[name];
    const ratio = (own.seconds ?? Number.NaN) / base;
    const all = measured.get(name) ?? [];
    const exceeded = Object.entries(group.limits?.[name] ?? {})
      .filter(([key, limit]) => !((own[key] ?? Number.NaN) <= limit))
      .map(([key, limit]) => `${key} over ${formatNumber(limit)}`);
    const goal = target === undefined ? {} : { target };
    return { name, medians: own, runs: all, ratio, ...goal, exceeded };
  });
  return {
    name: group.name,
    cases,
    loadBefore,
    loadAfter: loadavg()[0] ?? 0,
    isMet: cases.every(
      ({ ratio, target, exceeded }) =>
        (target === undefined || ratio <= target) && exceeded.length === 0,
    ),
  };
}

export function formatGroup(report: GroupReport): string {
  const [before, after] = [report.loadBefore, report.loadAfter].map((load) => load.toFixed(2));
  const load = `load average ${before} before, ${after} after`;
  const keys = [...new Set(report.cases.flatMap(({ medians }) => Object.keys(medians)))];
  const rows = report.cases.map(({ name, medians, ratio, target, exceeded }) => [
    name,
    ...keys.map((key) => formatNumber(medians[key])),
    `${ratio.toFixed(2)}×`,
    [target === undefined ? [] : [`${ratio <= target ? "≤" : "over"} ${target}×`], exceeded]
      .flat()
      .join(", "),
  ]);
  const table = [["", ...keys, "ratio", "target"], ...rows];
  const widths = table[0]?.map((_, column) => Math.max(...table.map((row) => width(row, column))));
  const lines = table.map((row) =>
    row
      .map((cell, column) => pad(cell, widths?.[column] ?? 0, column))
      .join("  ")
      .trimEnd(),
  );
  return [`\n${report.name} (${report.cases[0]?.runs.length} runs each, ${load})`, ...lines].join(
    "\n",
  );
}

function mediansOf(all: readonly Measures[]): Measures {
  const keys = Object.keys(all[0] ?? {});
  return Object.fromEntries(keys.map((key) => [key, median(all.map((one) => one[key] ?? 0))]));
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

function formatNumber(value: number | undefined): string {
  if (value === undefined) return "";
  return Number.isInteger(value) ? value.toLocaleString("en") : value.toFixed(2);
}

function width(row: readonly string[], column: number): number {
  return row[column]?.length ?? 0;
}

function pad(cell: string, length: number, column: number): string {
  return column === 0 ? cell.padEnd(length) : cell.padStart(length);
}
