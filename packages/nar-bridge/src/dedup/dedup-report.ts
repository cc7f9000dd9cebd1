import type { NarHash } from "../nix/nix-hash.ts";
import type { StorePath } from "../nix/store-path.ts";
import { DEDUP_CUTS } from "./dedup-cut.ts";
import type { PartTable } from "./dedup-part-table.ts";
import type { MeasuredNar } from "./dedup-state.ts";

/** Distinct parts of one cut, and what must be said about them. Bytes. */
export interface DedupAmount {
  readonly parts: number;
  readonly bytes: number;
  /** Each part as a zstd frame of its own, for each of the report's levels. */
  readonly zstdBytes: readonly number[];
  /** Directories and recipes, uncompressed: of every path, shared or not. */
  readonly metadataBytes: number;
}

/** By the id of the cut. */
export type DedupAmounts = Readonly<Record<string, DedupAmount>>;

/** What a set of store paths takes where it is kept. */
export interface DedupStorage {
  readonly paths: number;
  /** NARs that several paths share count once. */
  readonly narBytes: number;
  readonly servedBytes: number;
  readonly cuts: DedupAmounts;
}

/** The cheapest way to a path. */
export interface DedupChoice {
  /** "nar", or the id of a cut and a level: "chunks64k@3". */
  readonly way: string;
  readonly bytes: number;
}

/** What a client that has the old closure, and the paths before this one, downloads for it. */
export interface DedupPathUpdate {
  readonly storePath: string;
  readonly compression: string;
  readonly narBytes: number;
  readonly servedBytes: number;
  readonly files: number;
  readonly occurrences: number;
  readonly cuts: DedupAmounts;
  /** Of all ways. */
  readonly freeChoice: DedupChoice;
}

/** Sums over the paths of an update. */
export interface DedupUpdateAmount extends DedupAmount {
  /** Where each path may also be taken as its NAR, for each level. */
  readonly freeChoiceBytes: readonly number[];
  /** How many paths then are. */
  readonly pathsByNar: readonly number[];
}

export interface DedupUpdate {
  readonly paths: number;
  readonly narBytes: number;
  readonly servedBytes: number;
  readonly cuts: Readonly<Record<string, DedupUpdateAmount>>;
  /** Where the best of all ways is taken for each path. */
  readonly freeChoiceBytes: number;
}

export interface DedupPairReport {
  /** Absolute store paths; without an old one, everything is new. */
  readonly old: string | undefined;
  readonly new: string;
  /** Paths of the new closure that the old one has, too. */
  readonly unchanged: { readonly paths: number; readonly narBytes: number };
  readonly update: DedupUpdate;
  readonly atRest: {
    readonly old: DedupStorage;
    readonly new: DedupStorage;
    readonly both: DedupStorage;
  };
  /** The new paths, references first. */
  readonly paths: readonly DedupPathUpdate[];
}

/** What `castore bench dedup` found out. As JSON, it is what docs/benchmarks.md describes. */
export interface DedupReport {
  readonly format: "castore-dedup/1";
  readonly cache: string;
  readonly zstdLevels: readonly number[];
  readonly cuts: readonly { readonly id: string; readonly title: string }[];
  readonly pairs: readonly DedupPairReport[];
  readonly sum: {
    /** Of all pairs. */
    readonly update: DedupUpdate;
    /** All closures together, each path once. */
    readonly atRest: DedupStorage;
  };
}

/** A path of a closure, measured. */
export interface DedupPath {
  readonly storePath: StorePath;
  readonly narHash: NarHash;
  readonly compression: string;
  readonly measured: MeasuredNar;
}

/** References come before what refers to them. */
export interface DedupPair {
  readonly old: readonly DedupPath[];
  readonly new: readonly DedupPath[];
}

export interface DedupReportOptions {
  readonly cache: string;
  readonly storeDir: string;
  readonly zstdLevels: readonly number[];
  /** Has the parts of all paths. */
  readonly table: PartTable;
  readonly pairs: readonly DedupPair[];
}

const NOTHING: DedupAmount = { parts: 0, bytes: 0, zstdBytes: [], metadataBytes: 0 };

/** Adds everything up. Memory: one byte for each part, beside what it returns. */
export function createDedupReport(options: DedupReportOptions): DedupReport {
  const { cache, zstdLevels, pairs } = options;
  const reports = pairs.map((pair) => reportPair(pair, options));
  const everything = pairs.flatMap((pair) => [...pair.old, ...pair.new]);
  return {
    format: "castore-dedup/1",
    cache,
    zstdLevels,
    cuts: DEDUP_CUTS.map(({ id, title }) => ({ id, title })),
    pairs: reports,
    sum: {
      update: sumUpdates(
        reports.map(({ update }) => update),
        zstdLevels.length,
      ),
      atRest: storageOf(everything, options),
    },
  };
}

function reportPair(pair: DedupPair, options: DedupReportOptions): DedupPairReport {
  const { storeDir, table, zstdLevels } = options;
  const known = new KnownParts(table);
  for (const { measured } of pair.old) known.take(measured);
  const present = new Set(pair.old.map(({ storePath }) => storePath));
  const kept = pair.new.filter(({ storePath }) => present.has(storePath));
  const paths = pair.new
    .filter(({ storePath }) => !present.has(storePath))
    .map((path) => updateOf(path, known, zstdLevels));
  const rootOf = (closure: readonly DedupPath[]) => {
    const root = closure.at(-1);
    return root && `${storeDir}/${root.storePath}`;
  };
  return {
    old: rootOf(pair.old),
    new: rootOf(pair.new) ?? "",
    unchanged: {
      paths: kept.length,
      narBytes: sum(kept.map(({ measured }) => measured.narBytes)),
    },
    update: sumUpdates(paths.map(updateOfPath), zstdLevels.length),
    atRest: {
      old: storageOf(pair.old, options),
      new: storageOf(pair.new, options),
      both: storageOf([...pair.old, ...pair.new], options),
    },
    paths,
  };
}

function updateOf(
  { storePath, compression, measured }: DedupPath,
  known: KnownParts,
  levels: readonly number[],
): DedupPathUpdate {
  const { narBytes, servedBytes, files, occurrences } = measured;
  const cuts = known.take(measured);
  let freeChoice: DedupChoice = { way: "nar", bytes: servedBytes };
  for (const [id, { zstdBytes, metadataBytes }] of Object.entries(cuts)) {
    for (const [i, packed] of zstdBytes.entries()) {
      const bytes = packed + metadataBytes;
      if (bytes < freeChoice.bytes) freeChoice = { way: `${id}@${levels[i]}`, bytes };
    }
  }
  return {
    storePath,
    compression,
    narBytes,
    servedBytes,
    files,
    occurrences,
    cuts,
    freeChoice,
  };
}

function storageOf(paths: readonly DedupPath[], { table }: DedupReportOptions): DedupStorage {
  const known = new KnownParts(table);
  const distinct = new Map(paths.map((path) => [path.storePath, path]));
  const nars = new Map(paths.map(({ narHash, measured }) => [narHash, measured]));
  return {
    paths: distinct.size,
    narBytes: sum([...nars.values()].map(({ narBytes }) => narBytes)),
    servedBytes: sum([...nars.values()].map(({ servedBytes }) => servedBytes)),
    cuts: sumAmounts(
      [...distinct.values()].map(({ measured }) => known.take(measured)),
      table.levelCount,
    ),
  };
}

/** Which parts are there already, cut by cut. */
class KnownParts {
  readonly #table: PartTable;
  readonly #masks: Uint8Array;

  constructor(table: PartTable) {
    this.#table = table;
    this.#masks = new Uint8Array(table.count);
  }

  /** Adds the parts of a path, and tells how much of them was missing. */
  take({ parts, masks, metadataBytes }: MeasuredNar): DedupAmounts {
    const missing = DEDUP_CUTS.map(() => ({
      parts: 0,
      bytes: 0,
      zstdBytes: new Array<number>(this.#table.levelCount).fill(0),
    }));
    for (const [i, part] of parts.entries()) {
      const fresh = (masks[i] ?? 0) & ~(this.#masks[part] ?? 0);
      if (fresh === 0) continue;
      this.#masks[part] = (this.#masks[part] ?? 0) | fresh;
      const packedSizes = this.#table.packedSizesOf(part);
      for (const [cut, amount] of missing.entries()) {
        if ((fresh & (1 << cut)) === 0) continue;
        amount.parts++;
        amount.bytes += this.#table.sizeOf(part);
        for (const [level, size] of packedSizes.entries()) {
          amount.zstdBytes[level] = (amount.zstdBytes[level] ?? 0) + size;
        }
      }
    }
    return amountsOf((cut) => ({
      ...(missing[cut] ?? NOTHING),
      metadataBytes: metadataBytes[cut] ?? 0,
    }));
  }
}

function amountsOf<T extends DedupAmount>(of: (cut: number, id: string) => T): Record<string, T> {
  return Object.fromEntries(DEDUP_CUTS.map(({ id }, cut) => [id, of(cut, id)]));
}

function sumAmounts(all: readonly DedupAmounts[], levelCount: number): DedupAmounts {
  return amountsOf((_, id) => sumCut(all, id, levelCount));
}

function sumCut(all: readonly DedupAmounts[], id: string, levelCount: number): DedupAmount {
  return {
    parts: sum(all.map((cuts) => cuts[id]?.parts ?? 0)),
    bytes: sum(all.map((cuts) => cuts[id]?.bytes ?? 0)),
    zstdBytes: sumColumns(
      all.map((cuts) => cuts[id]?.zstdBytes ?? []),
      levelCount,
    ),
    metadataBytes: sum(all.map((cuts) => cuts[id]?.metadataBytes ?? 0)),
  };
}

/** A path as an update of its own. */
function updateOfPath({ narBytes, servedBytes, freeChoice, cuts }: DedupPathUpdate): DedupUpdate {
  return {
    paths: 1,
    narBytes,
    servedBytes,
    cuts: amountsOf((_, id) => {
      const { zstdBytes, metadataBytes, ...rest } = cuts[id] ?? NOTHING;
      const costs = zstdBytes.map((bytes) => bytes + metadataBytes);
      return {
        ...{ ...rest, zstdBytes, metadataBytes },
        freeChoiceBytes: costs.map((bytes) => Math.min(bytes, servedBytes)),
        pathsByNar: costs.map((bytes) => Number(bytes >= servedBytes)),
      };
    }),
    freeChoiceBytes: freeChoice.bytes,
  };
}

function sumUpdates(updates: readonly DedupUpdate[], levelCount: number): DedupUpdate {
  const all = updates.map(({ cuts }) => cuts);
  return {
    paths: sum(updates.map(({ paths }) => paths)),
    narBytes: sum(updates.map(({ narBytes }) => narBytes)),
    servedBytes: sum(updates.map(({ servedBytes }) => servedBytes)),
    cuts: amountsOf((_, id) => {
      const columns = (column: "freeChoiceBytes" | "pathsByNar") => {
        const rows = all.map((cuts) => cuts[id]?.[column] ?? []);
        return sumColumns(rows, levelCount);
      };
      return {
        ...sumCut(all, id, levelCount),
        freeChoiceBytes: columns("freeChoiceBytes"),
        pathsByNar: columns("pathsByNar"),
      };
    }),
    freeChoiceBytes: sum(updates.map(({ freeChoiceBytes }) => freeChoiceBytes)),
  };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function sumColumns(rows: readonly (readonly number[])[], columnCount: number): number[] {
  return Array.from({ length: columnCount }, (_, i) => sum(rows.map((row) => row[i] ?? 0)));
}
