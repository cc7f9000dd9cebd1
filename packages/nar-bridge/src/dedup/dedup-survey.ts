import { createHash } from "node:crypto";
import { type CallOptions, CastoreError, digestOf, inParallel } from "@castore/castore";
import { decompress, parseCompression } from "../compression/compression.ts";
import type { NarInfo } from "../nix/nar-info.ts";
import { parseNarInfo } from "../nix/nar-info-text.ts";
import { narHashOf } from "../nix/nix-hash.ts";
import { NIX_STORE_DIR, type StoreDir, type StoreHash, storePathHash } from "../nix/store-path.ts";
import type { TrustedKeys } from "../nix/trusted-keys.ts";
import { type Clock, SYSTEM_CLOCK } from "../upstream/clock.ts";
import type { Upstream } from "../upstream/upstream.ts";
import { createCompressor } from "./dedup-compressor.ts";
import { createPathMeasurer, type PathMeasurer } from "./dedup-measure.ts";
import { PartTable } from "./dedup-part-table.ts";
import { createDedupReport, type DedupPath, type DedupReport } from "./dedup-report.ts";
import { type DedupState, type MeasuredNar, openDedupState } from "./dedup-state.ts";

/** Most paths in all closures together. */
export const SURVEY_PATHS_MAX = 1 << 17;
/** A NAR that says it is larger is not measured. */
export const SURVEY_NAR_BYTES_MAX = 2 ** 36;
/** How often a narinfo is asked for where the cache does not answer. */
const LOOKUPS_MAX = 5;
const LOOKUP_DELAY_MS = 500;

export interface SurveyPair {
  /** Without one, everything in the new closure is new. */
  readonly old?: StoreHash | undefined;
  readonly new: StoreHash;
}

export interface SurveyProgress {
  readonly phase: "narinfos" | "nars";
  readonly paths: number;
  readonly pathsTotal: number;
  /** Compressed, as far as the narinfos tell. */
  readonly bytes: number;
  readonly bytesTotal: number;
}

export interface SurveyOptions extends CallOptions {
  readonly upstream: Upstream;
  readonly pairs: readonly SurveyPair[];
  readonly zstdLevels: readonly number[];
  /** Requests at once. */
  readonly concurrency: number;
  /** Bytes of NARs a second, over all requests. No limit by default. */
  readonly bytesPerSecond?: number | undefined;
  /** Narinfos that none of them signed are refused. By default the NAR hash is all that counts. */
  readonly trustedKeys?: TrustedKeys | undefined;
  /** Keeps what was measured; a later survey goes on from there. */
  readonly stateFile?: string | undefined;
  readonly clock?: Clock | undefined;
  readonly onProgress?: ((progress: SurveyProgress) => void) | undefined;
}

/**
 * Reads the closures of all pairs from a cache, each NAR once and as a stream, and reports what
 * deduplication would save. The same answers give the same report, however often the survey was
 * interrupted. Memory: the part table, and some 50 MiB for each request at once.
 * Rejects INCOMPLETE where the cache lacks a path, CORRUPT where a NAR is not what its narinfo
 * says, INVALID and DENIED for narinfos that do not count, EXHAUSTED over the stated limits.
 */
export async function surveyDedup(options: SurveyOptions): Promise<DedupReport> {
  const { upstream, zstdLevels, stateFile, pairs } = options;
  const storeDir = (await upstream.cacheInfo(options)).storeDir ?? NIX_STORE_DIR;
  const narInfos = await readClosures(storeDir, options);
  const table = new PartTable(zstdLevels.length);
  await using state = await openDedupState({ table, zstdLevels, file: stateFile });
  await using compressor = createCompressor(zstdLevels, options);
  const measurer = createPathMeasurer({ table, compressor });
  const room = () => compressor.room();
  const measured = await measureAll(narInfos, { ...options, state, measurer, room });
  const closureOf = (root: StoreHash | undefined): DedupPath[] =>
    root === undefined ? [] : closureOrder(root, narInfos).map((hash) => pathOf(hash, measured));
  return createDedupReport({
    ...{ cache: upstream.url.href, storeDir, zstdLevels, table },
    pairs: pairs.map((pair) => ({ old: closureOf(pair.old), new: closureOf(pair.new) })),
  });
}

type NarInfos = ReadonlyMap<StoreHash, NarInfo>;

async function readClosures(storeDir: StoreDir, options: SurveyOptions): Promise<NarInfos> {
  const { pairs, concurrency, onProgress } = options;
  const narInfos = new Map<StoreHash, NarInfo>();
  const seen = new Set<StoreHash>();
  let frontier = pairs.flatMap((pair) => [pair.new, ...(pair.old ? [pair.old] : [])]);
  while (frontier.length > 0) {
    const wanted = [...new Set(frontier)].filter((hash) => !seen.has(hash));
    frontier = [];
    for (const hash of wanted) seen.add(hash);
    if (seen.size > SURVEY_PATHS_MAX) {
      throw new CastoreError("EXHAUSTED", `closures of more than ${SURVEY_PATHS_MAX} paths`);
    }
    const lookup = (hash: StoreHash, signal: AbortSignal) =>
      readNarInfo(hash, { ...options, storeDir, signal });
    for await (const narInfo of inParallel(wanted, concurrency, lookup, options)) {
      narInfos.set(storePathHash(narInfo.storePath), narInfo);
      frontier.push(...narInfo.references.map(storePathHash));
      const [paths, pathsTotal] = [narInfos.size, seen.size];
      onProgress?.({ phase: "narinfos", paths, pathsTotal, bytes: 0, bytesTotal: 0 });
    }
  }
  return narInfos;
}

async function readNarInfo(
  hash: StoreHash,
  options: SurveyOptions & { readonly storeDir: StoreDir },
): Promise<NarInfo> {
  const { storeDir, trustedKeys, upstream } = options;
  const text = await lookUp(hash, options);
  const name = `${upstream.url.href}${hash}.narinfo`;
  if (text === undefined) throw new CastoreError("INCOMPLETE", `${name}: the cache has none`);
  const narInfo = parseNarInfo(text, storeDir);
  if (storePathHash(narInfo.storePath) !== hash) {
    throw new CastoreError("INVALID", `${name}: is that of ${narInfo.storePath}`);
  }
  if (trustedKeys !== undefined && trustedKeys.trusts(narInfo) === undefined) {
    throw new CastoreError("DENIED", `${name}: no trusted key signed it`);
  }
  if (narInfo.narSize > SURVEY_NAR_BYTES_MAX) {
    const limit = `over the limit of ${SURVEY_NAR_BYTES_MAX}`;
    throw new CastoreError("EXHAUSTED", `${name}: a NAR of ${narInfo.narSize} bytes, ${limit}`);
  }
  return narInfo;
}

async function lookUp(hash: StoreHash, options: SurveyOptions): Promise<string | undefined> {
  const { upstream, signal, clock = SYSTEM_CLOCK } = options;
  for (let lookups = 1; ; lookups++) {
    try {
      return await upstream.narInfoText(hash, { signal });
    } catch (error) {
      signal?.throwIfAborted();
      const mayPass = error instanceof CastoreError && error.code === "UNAVAILABLE";
      if (!mayPass || lookups === LOOKUPS_MAX) throw error;
      await clock.wait(LOOKUP_DELAY_MS * 2 ** (lookups - 1), { signal });
    }
  }
}

interface MeasureOptions extends SurveyOptions {
  readonly state: DedupState;
  readonly measurer: PathMeasurer;
  /** Waits while too much is not compressed yet. */
  readonly room: () => Promise<void>;
}

async function measureAll(
  narInfos: NarInfos,
  options: MeasureOptions,
): Promise<ReadonlyMap<StoreHash, DedupPath>> {
  const { concurrency, onProgress, state, upstream } = options;
  const measured = new Map<StoreHash, DedupPath>();
  const pace = createPace(options);
  const all = [...narInfos.values()];
  const progress = { paths: 0, bytes: 0 };
  const bytesTotal = all.reduce((sum, narInfo) => sum + wireBytes(narInfo), 0);
  const report = () =>
    onProgress?.({ phase: "nars", ...progress, pathsTotal: all.length, bytesTotal });
  const measure = async (narInfo: NarInfo, signal: AbortSignal): Promise<DedupPath> => {
    const key = stateKey(upstream, narInfo);
    const { storePath, narHash, compression } = narInfo;
    const onBytes = async (bytes: number) => {
      progress.bytes += bytes;
      report();
      await pace(bytes, signal);
    };
    let path = state.get(key);
    if (path === undefined) {
      path = await measureNar(narInfo, { ...options, signal, onBytes });
      await state.put(key, path);
    } else progress.bytes += path.servedBytes;
    progress.paths++;
    report();
    return { storePath, narHash, compression, measured: path };
  };
  for await (const path of inParallel(all, concurrency, measure, options)) {
    measured.set(storePathHash(path.storePath), path);
  }
  return measured;
}

async function measureNar(
  narInfo: NarInfo,
  options: MeasureOptions & { readonly onBytes: (bytes: number) => Promise<void> },
): Promise<MeasuredNar> {
  const { upstream, measurer, signal, onBytes, room } = options;
  const { storePath, narSize } = narInfo;
  let servedBytes = 0;
  async function* served(): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const piece of upstream.openNar(narInfo, { signal })) {
      servedBytes += piece.byteLength;
      await onBytes(piece.byteLength);
      yield piece;
    }
  }
  try {
    const compression = parseCompression(narInfo.compression);
    if (compression === undefined) {
      throw new CastoreError("INVALID", `unknown compression ${narInfo.compression}`);
    }
    const measurement = measurer.start(narInfo);
    const hash = createHash("sha256");
    for await (const piece of decompress(compression, served(), { signal, size: narSize })) {
      hash.update(piece);
      measurement.write(piece);
      await room();
    }
    const narHash = narHashOf(hash.digest());
    if (narHash !== narInfo.narHash) {
      throw new CastoreError("CORRUPT", `its NAR has ${narHash}, not ${narInfo.narHash}`);
    }
    return { ...(await measurement.finish()), servedBytes };
  } catch (cause) {
    if (!(cause instanceof CastoreError)) throw cause;
    throw new CastoreError(cause.code, `${storePath}: ${cause.message}`, { cause });
  }
}

/** Delays whoever took bytes, so that all together take no more than they may. */
function createPace(options: SurveyOptions): (bytes: number, signal: AbortSignal) => Promise<void> {
  const { bytesPerSecond, clock = SYSTEM_CLOCK } = options;
  if (bytesPerSecond === undefined) return async () => {};
  let free = clock.now();
  return async (bytes, signal) => {
    const now = clock.now();
    free = Math.max(free, now) + (1000 * bytes) / bytesPerSecond;
    if (free > now) await clock.wait(free - now, { signal });
  };
}

/** Changes with all that a measurement depends on. */
function stateKey(upstream: Upstream, narInfo: NarInfo): string {
  const { storePath, narHash, references, url, compression } = narInfo;
  const parts = [upstream.url.href, storePath, narHash, url, compression, ...references];
  return digestOf(Buffer.from(parts.join("\n")));
}

function wireBytes({ fileSize, narSize }: NarInfo): number {
  return fileSize ?? narSize;
}

/** The closure of `root`, references first, siblings in the order of their names. */
function closureOrder(root: StoreHash, narInfos: NarInfos): StoreHash[] {
  const order: StoreHash[] = [];
  const entered = new Set<StoreHash>([root]);
  const referencesOf = (hash: StoreHash) =>
    (narInfos.get(hash)?.references ?? []).map(storePathHash).sort().values();
  const open = [{ hash: root, rest: referencesOf(root) }];
  for (let top = open.at(-1); top !== undefined; top = open.at(-1)) {
    const { value: next } = top.rest.next();
    if (next === undefined) {
      order.push(top.hash);
      open.pop();
    } else if (!entered.has(next)) {
      entered.add(next);
      open.push({ hash: next, rest: referencesOf(next) });
    }
  }
  return order;
}

function pathOf(hash: StoreHash, measured: ReadonlyMap<StoreHash, DedupPath>): DedupPath {
  const path = measured.get(hash);
  if (path === undefined) throw new CastoreError("INCOMPLETE", `${hash}: was not measured`);
  return path;
}
