import {
  type CallOptions,
  CastoreError,
  type ClosureRequest,
  inParallel,
  isCastoreError,
  type LocalStore,
} from "@castore/castore";
import { createNarLayout } from "../nar/nar-layout.ts";
import { formatNarListing } from "../nar/nar-listing.ts";
import { type CacheInfo, formatCacheInfo, parseCacheInfo } from "../nix/cache-info.ts";
import { formatNarInfo } from "../nix/nar-info-text.ts";
import type { NarHash } from "../nix/nix-hash.ts";
import { leavesFirst } from "../nix/reference-order.ts";
import type { RootSigningKey } from "../nix/signed-root.ts";
import { type StoreDir, type StoreHash, storePathHash } from "../nix/store-path.ts";
import { collectClosure } from "../path-infos/closure-source.ts";
import { encodeClosureStream } from "../path-infos/closure-stream.ts";
import { narInfoOf, type PathInfo } from "../path-infos/path-info.ts";
import type { PathInfoService } from "../path-infos/path-info-service.ts";
import type { RecipeStore } from "../path-infos/recipe-store.ts";
import { CASTORE_PROTOCOL } from "../substitution/castore-ways.ts";
import { ExportDirectory } from "./export-directory.ts";
import { type ExportCompression, type ExportedNar, exportNar } from "./export-nar.ts";
import { compressMetadata, ObjectExport } from "./export-objects.ts";

/** Paths whose parts are written at once: compression takes all the time, mostly in threads. */
const PATHS_PARALLEL = 3;
/** As Nix gives a cache that does not say. */
const PRIORITY = 50;
/** Beyond what every castore/1 server has (docs/protocol.md, section 3). */
const EXPORT_FEATURES = ["outboard", "summary"];

export interface ExportSource {
  readonly store: LocalStore;
  readonly pathInfos: PathInfoService;
  readonly recipes: RecipeStore;
}

export interface ExportOptions extends CallOptions {
  readonly directory: string;
  readonly storeDir: StoreDir;
  readonly compression: ExportCompression;
  /** For chunks. */
  readonly zstdLevel: number;
  readonly rootSigningKeys: readonly RootSigningKey[];
  /** Removes from the cache in `directory` what does not belong to the closures. */
  readonly prune: boolean;
  readonly onPath?: (exported: ExportedPath) => void;
}

export interface ExportedPath {
  readonly pathInfo: PathInfo;
  readonly nar: ExportedNar;
  /** Of the NARs that are done, this one included, and of all. */
  readonly bytes: number;
  readonly bytesTotal: number;
}

export interface ExportReport {
  readonly paths: number;
  /** Files that were removed. */
  readonly pruned: number;
}

/**
 * Writes the closures of `roots` from a local store into a directory, which then is a complete
 * static cache, plain and castore/1. What is there already stays. Nothing is visible before what it
 * refers to: a path's narinfo comes last, after those of its references. Rejects INCOMPLETE where
 * the closures are not whole in the store.
 */
export async function exportClosure(
  source: ExportSource,
  roots: readonly StoreHash[],
  options: ExportOptions,
): Promise<ExportReport> {
  using _lease = source.store.lease();
  const pathInfos = await findClosure(source, roots, options);
  await using target = await ExportDirectory.open(options.directory, options.prune);
  await greet(target, options);
  const exported = new ClosureExport(source, pathInfos, target, options);
  await exported.putAll(roots);
  const pruned = options.prune ? await target.prune(options) : 0;
  return { paths: pathInfos.size, pruned };
}

/** What the closures of `roots` hold, references first, signed as asked for. */
async function findClosure(
  { pathInfos }: ExportSource,
  roots: readonly StoreHash[],
  options: ExportOptions,
): Promise<ReadonlyMap<StoreHash, PathInfo>> {
  const found = new Map<StoreHash, PathInfo>();
  const wantedBy = new Map<StoreHash, string>(roots.map((root) => [root, "the export"]));
  for (const [storeHash, by] of wantedBy) {
    const pathInfo = await pathInfos.get(storeHash, options);
    if (pathInfo === undefined) {
      throw new CastoreError("INCOMPLETE", `${storeHash}, wanted by ${by}: not in the local store`);
    }
    found.set(storeHash, signed(pathInfo, options.rootSigningKeys));
    for (const reference of pathInfo.references.map(storePathHash)) {
      if (!wantedBy.has(reference)) wantedBy.set(reference, pathInfo.storePath);
    }
  }
  const references = new Map(
    [...found].map(([storeHash, path]) => [storeHash, path.references.map(storePathHash)] as const),
  );
  const ordered = new Map<StoreHash, PathInfo>();
  for (const storeHash of leavesFirst(roots, references)) {
    const pathInfo = found.get(storeHash);
    if (pathInfo !== undefined) ordered.set(storeHash, pathInfo);
  }
  return ordered;
}

function signed(pathInfo: PathInfo, keys: readonly RootSigningKey[]): PathInfo {
  const signatures = keys.map((key) => key.sign(pathInfo, pathInfo.node));
  return { ...pathInfo, rootSignatures: [...new Set([...pathInfo.rootSignatures, ...signatures])] };
}

/** Writes `info` and `nix-cache-info`; of one that is there, all is kept. */
async function greet(target: ExportDirectory, options: ExportOptions): Promise<void> {
  const { storeDir, rootSigningKeys } = options;
  const rootKeys = rootSigningKeys.map(({ publicKey }) => publicKey.text);
  const info = JSON.stringify({ version: 1, storeDir, features: EXPORT_FEATURES, rootKeys });
  const key = "nix-cache-info";
  const present = (await target.objects.get(key, options))?.toString("utf8");
  const said: CacheInfo =
    present === undefined
      ? { storeDir, wantMassQuery: true, priority: PRIORITY, upgrades: [] }
      : parseCacheInfo(present);
  if (said.storeDir !== undefined && said.storeDir !== storeDir) {
    const message = `${target.objects.name}: has StoreDir ${said.storeDir}, not ${storeDir}`;
    throw new CastoreError("INVALID", message);
  }
  await target.replace("info", Buffer.from(info), options);
  const upgrade = { protocol: CASTORE_PROTOCOL, url: "./" };
  const offered = said.upgrades.some(({ protocol }) => protocol === upgrade.protocol);
  const upgrades = offered ? said.upgrades : [...said.upgrades, upgrade];
  const text = formatCacheInfo({ ...said, storeDir, upgrades });
  if (present === undefined || !offered) await target.replace(key, Buffer.from(text), options);
}

class ClosureExport {
  readonly #source: ExportSource;
  readonly #pathInfos: ReadonlyMap<StoreHash, PathInfo>;
  readonly #target: ExportDirectory;
  readonly #options: ExportOptions;
  readonly #objects: ObjectExport;
  /** Those begun: paths may share one. */
  readonly #nars = new Map<NarHash, Promise<ExportedNar>>();

  constructor(
    source: ExportSource,
    pathInfos: ReadonlyMap<StoreHash, PathInfo>,
    target: ExportDirectory,
    options: ExportOptions,
  ) {
    this.#source = source;
    this.#pathInfos = pathInfos;
    this.#target = target;
    this.#options = options;
    this.#objects = new ObjectExport({ ...source, target, zstdLevel: options.zstdLevel });
  }

  async putAll(roots: readonly StoreHash[]): Promise<void> {
    const put = (pathInfo: PathInfo, signal: AbortSignal) => this.#putParts(pathInfo, { signal });
    const parts = inParallel(this.#pathInfos.values(), PATHS_PARALLEL, put, this.#options);
    const bytesTotal = [...this.#pathInfos.values()].reduce((sum, it) => sum + it.narSize, 0);
    let bytes = 0;
    for await (const { pathInfo, nar } of parts) {
      // In order: all that the path refers to has its narinfo.
      const storeHash = storePathHash(pathInfo.storePath);
      const query = { wanted: [storeHash], follow: true, known: [], summaries: true };
      if (roots.includes(storeHash)) {
        await this.#putClosure("closure", { ...query, summaries: false });
        await this.#putClosure("summaries", query);
      }
      await this.#putClosure("summary", { ...query, follow: false });
      const narInfo = { ...narInfoOf(pathInfo, nar.url), ...nar };
      const text = Buffer.from(formatNarInfo(narInfo));
      await this.#target.replace(`${storeHash}.narinfo`, text, this.#options);
      bytes += pathInfo.narSize;
      this.#options.onPath?.({ pathInfo, nar, bytes, bytesTotal });
    }
  }

  /** All but the narinfo. The NAR is compressed in other threads than chunks are. */
  async #putParts(pathInfo: PathInfo, options: { readonly signal: AbortSignal }) {
    const stop = new AbortController();
    const signal = AbortSignal.any([options.signal, stop.signal]);
    const nar = this.#putNar(pathInfo, { signal });
    try {
      await this.#objects.put(pathInfo, { signal });
      await this.#putListing(pathInfo, { signal });
    } catch (error) {
      stop.abort(error);
      throw error;
    } finally {
      await Promise.allSettled([nar]);
    }
    return { pathInfo, nar: await nar };
  }

  async #putNar(pathInfo: PathInfo, options: CallOptions): Promise<ExportedNar> {
    const { compression } = this.#options;
    const { objects } = this.#target;
    let nar = this.#nars.get(pathInfo.narHash);
    nar ??= exportNar(pathInfo, this.#source.store, objects, compression, options);
    this.#nars.set(pathInfo.narHash, nar);
    const exported = await nar;
    this.#target.keep(exported.url);
    return exported;
  }

  async #putListing(pathInfo: PathInfo, options: CallOptions): Promise<void> {
    const layout = await createNarLayout(pathInfo.node, this.#source.store, options);
    let text: string;
    try {
      text = formatNarListing(layout.listing());
    } catch (error) {
      // A name that is not UTF-8: such a path has no listing.
      if (isCastoreError(error, "UNSUPPORTED")) return;
      throw error;
    }
    const key = `${storePathHash(pathInfo.storePath)}.ls`;
    await this.#target.replace(key, Buffer.from(text), options);
  }

  async #putClosure(
    kind: "closure" | "summaries" | "summary",
    query: ClosureRequest,
  ): Promise<void> {
    const pathInfos = { get: async (storeHash: StoreHash) => this.#pathInfos.get(storeHash) };
    const source = { store: this.#source.store, pathInfos, recipes: this.#objects };
    const records = collectClosure(query, source, this.#options);
    const bytes = await compressMetadata(encodeClosureStream(records));
    await this.#target.replace(`${kind}/${query.wanted[0]}`, bytes, this.#options);
  }
}
