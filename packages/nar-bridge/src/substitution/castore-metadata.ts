import {
  type CallOptions,
  CastoreError,
  CLOSURE_REQUEST_KNOWN_MAX,
  CLOSURE_REQUEST_WANTED_MAX,
  type Digest,
  type Directory,
  decodeDirectory,
  decodeRecipe,
  decodeTreeSummary,
  digestOf,
  type LocalStore,
  type Recipe,
  type TreeSummary,
} from "@castore/castore";
import { LRUCache } from "lru-cache";
import { type StoreHash, storePathHash } from "../nix/store-path.ts";
import type { ClosureRecord } from "../path-infos/closure-stream.ts";
import type { PathInfo } from "../path-infos/path-info.ts";
import { decodeSignedPathInfo } from "../path-infos/path-info-codec.ts";
import type { CastoreEndpoint, ClosureFile, CostOptions } from "./castore-endpoint.ts";
import type { ContentsOptions } from "./contents-server.ts";

/** Paths whose metadata is kept. */
const PATHS_MAX = 4_096;
const TTL_MS = 600_000;

/** What a castore server claims of a path; its directories are in the store by then. */
export interface PathMetadata {
  readonly pathInfo: PathInfo;
  /** Undefined where no file below the root has more than one chunk or a reference. */
  readonly recipe: Recipe | undefined;
}

/** A path of which there is a summary only. */
export interface SummarizedPath {
  readonly pathInfo: PathInfo;
  readonly summary: TreeSummary;
  /** What directories, recipe and missing chunks would take, going by the summary. */
  readonly bytes: number;
}

type Known = PathMetadata | SummarizedPath | "absent";

interface LoadResult {
  /** Paths that the server left out. */
  readonly leftOut: readonly StoreHash[];
  /** Paths whose directories cannot be stored, and why. */
  readonly faults: ReadonlyMap<StoreHash, unknown>;
}

interface LoadOptions extends CostOptions {
  /** Whether a summary will do. */
  readonly summaries?: boolean | undefined;
  /** Where the path infos go, too. */
  readonly found?: Map<StoreHash, PathInfo> | undefined;
}

/**
 * Asks a castore server for the metadata of paths, many at once, and keeps it for a while. Nothing
 * of it is proven but the directories, by their digests.
 */
export class CastoreMetadata {
  readonly #endpoint: CastoreEndpoint;
  readonly #near: Pick<LocalStore, "chunks" | "directories">;
  readonly #loaded = new LRUCache<StoreHash, Known>({ max: PATHS_MAX, ttl: TTL_MS });
  readonly #recipes = new LRUCache<Digest, Recipe>({ max: PATHS_MAX, ttl: TTL_MS });
  /** Paths that a static server has no closure of. */
  readonly #unnamed = new LRUCache<StoreHash, true>({ max: PATHS_MAX, ttl: TTL_MS });
  readonly #underWay = new Map<StoreHash, Promise<void>>();

  constructor(endpoint: CastoreEndpoint, near: Pick<LocalStore, "chunks" | "directories">) {
    this.#endpoint = endpoint;
    this.#near = near;
  }

  /** What was claimed of the path before, other than by a summary. */
  known(storeHash: StoreHash): PathMetadata | undefined {
    const known = this.#loaded.peek(storeHash);
    return isWhole(known) ? known : undefined;
  }

  /** As `find`, whatever it costs. */
  async get(
    storeHash: StoreHash,
    options: ContentsOptions = {},
  ): Promise<PathMetadata | undefined> {
    const found = await this.find(storeHash, { ...options, pays: undefined });
    return isWhole(found) ? found : undefined;
  }

  /**
   * The metadata of `storeHash`, or the summary where by that more would not pay; undefined where
   * the server does not have the path. One request asks for what is wanted soon, too, where the
   * server can.
   */
  async find(
    storeHash: StoreHash,
    options: ContentsOptions = {},
  ): Promise<PathMetadata | SummarizedPath | undefined> {
    for (;;) {
      const known = this.#loaded.get(storeHash);
      if (known === "absent") return undefined;
      if (isWhole(known) && (await this.#isThere(known, options))) return known;
      if (isSummarized(known)) {
        // Chunks may have come since.
        const bytes = await this.#estimate(known.summary, options);
        if (options.pays?.(storeHash, bytes) === false) return { ...known, bytes };
      }
      const underWay = this.#underWay.get(storeHash);
      if (underWay === undefined) {
        const asked = await this.#ask(storeHash, options);
        if (!isSummarized(asked)) return asked === "absent" ? undefined : asked;
      } else {
        // Its request may end with another caller's signal: then this caller asks himself.
        await underWay.catch(() => options.signal?.throwIfAborted());
      }
    }
  }

  async #ask(storeHash: StoreHash, options: ContentsOptions): Promise<Known> {
    const before = this.#loaded.peek(storeHash);
    const loading = isSummarized(before)
      ? this.#loadRest(storeHash, before, options)
      : this.#loadFirst(storeHash, options);
    const { faults } = await loading;
    if (faults.has(storeHash)) throw faults.get(storeHash);
    let loaded = this.#loaded.get(storeHash);
    // After its summary there is nothing but the whole that can come.
    if (loaded === undefined || (isSummarized(before) && isSummarized(loaded))) loaded = "absent";
    this.#loaded.set(storeHash, loaded);
    options.onDescribed?.();
    return loaded;
  }

  async #loadFirst(storeHash: StoreHash, options: ContentsOptions): Promise<LoadResult> {
    this.#loaded.delete(storeHash);
    const closure = options.closure?.() ?? [];
    // Under way before anything is awaited: nobody asks for a path twice.
    const isUnknown = (other: StoreHash) => !this.#loaded.has(other);
    const wanted = this.#wanted(storeHash, options, isUnknown);
    return await this.#underWayFor(wanted, async () => {
      const { features } = await this.#endpoint.info(options);
      const summaries = options.pays !== undefined && features.has("summary");
      if (features.has("closure"))
        return await this.#load(wanted, false, { ...options, summaries });
      // A static server answers for one path at a time, or for all below a path that was exported.
      const top = closure.length > 1 ? closure.at(-1) : undefined;
      const closureFile = summaries ? "summaries" : "closure";
      return (
        (top && (await this.#loadFile(closureFile, top, storeHash, options))) ??
        (summaries ? await this.#loadFile("summary", storeHash, storeHash, options) : undefined) ??
        (await this.#load([storeHash], false, options))
      );
    });
  }

  /** Loads what the summary of a path stands for, and of others that pay, too. */
  async #loadRest(
    storeHash: StoreHash,
    { pathInfo }: SummarizedPath,
    options: ContentsOptions,
  ): Promise<LoadResult> {
    const paysToo = (other: StoreHash) => {
      const known = this.#loaded.peek(other);
      return isSummarized(known) && options.pays?.(other, known.bytes) === true;
    };
    const isBatched = this.#endpoint.features.has("closure");
    const wanted = isBatched ? this.#wanted(storeHash, options, paysToo) : [storeHash];
    return await this.#underWayFor(wanted, async () => {
      if (isBatched) return await this.#load(wanted, false, options);
      return await this.#receive(this.#endpoint.contentsFiles(pathInfo, options), options);
    });
  }

  /** Undefined where a static server has no such file, or one without `storeHash`. */
  async #loadFile(
    kind: ClosureFile,
    of: StoreHash,
    storeHash: StoreHash,
    options: ContentsOptions,
  ): Promise<LoadResult | undefined> {
    if (kind !== "summary" && this.#unnamed.has(of)) return undefined;
    const records = await this.#endpoint.closureFile(kind, of, options);
    if (records === undefined) {
      if (kind !== "summary") this.#unnamed.set(of, true);
      return undefined;
    }
    const result = await this.#receive(records, { ...options, summaries: kind !== "closure" });
    return this.#loaded.has(storeHash) ? result : undefined;
  }

  /** Whether its directories are still in the store: they may have been collected since. */
  async #isThere({ pathInfo }: PathMetadata, options: CallOptions): Promise<boolean> {
    const { node } = pathInfo;
    if (node.type !== "directory") return true;
    return (await this.#near.directories.get(node.digest, options)) !== undefined;
  }

  async #estimate(summary: TreeSummary, options: CallOptions): Promise<number> {
    const { metadataBytes, wireBytes, sample } = summary;
    const isHere = await this.#near.chunks.has(sample, options);
    const missing = isHere.filter((is) => !is).length;
    // One more than are missing: a sample that is wholly here does not tell that nothing is.
    const part = Math.min(missing + 1, sample.length) / sample.length;
    return metadataBytes + Math.ceil(wireBytes * part);
  }

  /**
   * The path infos of `storeHashes` and all they refer to, as far as the server has them. With
   * `summaries`, large metadata of them is not loaded with them.
   */
  async closure(
    storeHashes: readonly StoreHash[],
    options: CostOptions & { readonly summaries?: boolean } = {},
  ): Promise<readonly PathInfo[]> {
    const { features } = await this.#endpoint.info(options);
    const summaries = options.summaries === true && features.has("summary");
    const found = new Map<StoreHash, PathInfo>();
    let open = [...storeHashes];
    while (open.length > 0) {
      const asked = open.slice(0, CLOSURE_REQUEST_WANTED_MAX);
      const load = () => this.#load(asked, true, { ...options, summaries, found });
      const { leftOut } = await this.#underWayFor(asked, load);
      const more = new Set([...open.slice(asked.length), ...leftOut]);
      open = [...more].filter((storeHash) => !found.has(storeHash) && !asked.includes(storeHash));
    }
    return [...found.values()];
  }

  /** `storeHash`, and of what is wanted soon that which `isWanted` and nobody asks for. */
  #wanted(
    storeHash: StoreHash,
    { closure, others }: ContentsOptions,
    isWanted: (storeHash: StoreHash) => boolean,
  ): StoreHash[] {
    const wanted = new Set([storeHash]);
    for (const other of [...(closure?.() ?? []), ...(others?.() ?? [])]) {
      if (wanted.size === CLOSURE_REQUEST_WANTED_MAX) break;
      if (!this.#underWay.has(other) && isWanted(other)) wanted.add(other);
    }
    return [...wanted];
  }

  /** Notes that `storeHashes` are being loaded. */
  async #underWayFor(
    storeHashes: readonly StoreHash[],
    load: () => Promise<LoadResult>,
  ): Promise<LoadResult> {
    const loading = load();
    const noted = loading.then(() => {});
    noted.catch(() => {});
    for (const storeHash of storeHashes) this.#underWay.set(storeHash, noted);
    try {
      return await loading;
    } finally {
      for (const storeHash of storeHashes) {
        if (this.#underWay.get(storeHash) === noted) this.#underWay.delete(storeHash);
      }
    }
  }

  /** Loads paths. What is wrong with one of them does not keep the others from counting. */
  async #load(
    storeHashes: readonly StoreHash[],
    follow: boolean,
    options: LoadOptions,
  ): Promise<LoadResult> {
    // Naming too many as known is no use: the server then sends some again.
    const known = [...(options.found?.keys() ?? [])].slice(0, CLOSURE_REQUEST_KNOWN_MAX).sort();
    const summaries = options.summaries === true;
    const request = { wanted: storeHashes, follow, known, summaries };
    return await this.#receive(this.#endpoint.closure(request, options), options);
  }

  async #receive(records: AsyncIterable<ClosureRecord>, options: LoadOptions): Promise<LoadResult> {
    const leftOut: StoreHash[] = [];
    const faults = new Map<StoreHash, unknown>();
    const directories = new Map<Digest, Directory>();
    const stored: Promise<void>[] = [];
    let pathInfo: PathInfo | undefined;
    let summary: TreeSummary | undefined;
    const finish = () => {
      if (pathInfo === undefined) return;
      const storeHash = storePathHash(pathInfo.storePath);
      const keeping =
        summary === undefined
          ? this.#keep(pathInfo, directories, options)
          : this.#keepSummary(pathInfo, summary, options);
      options.found?.set(storeHash, pathInfo);
      stored.push(keeping.catch((error: unknown) => void faults.set(storeHash, error)));
    };
    for await (const record of records) {
      switch (record.kind) {
        case "pathInfo":
          finish();
          pathInfo = decodeSignedPathInfo(record.bytes);
          summary = undefined;
          break;
        case "directory":
          directories.set(digestOf(record.bytes), decodeDirectory(record.bytes));
          break;
        case "recipe":
          this.#recipes.set(record.root, decodeRecipe(record.bytes));
          break;
        case "summary":
          if (options.summaries !== true) {
            throw new CastoreError("INVALID", `${this.#endpoint.base.href}: an unwanted summary`);
          }
          summary = decodeTreeSummary(record.bytes);
          break;
        case "absent":
          this.#loaded.set(record.storeHash, "absent");
          break;
        case "leftOut":
          leftOut.push(record.storeHash);
          break;
      }
    }
    finish();
    await Promise.all(stored);
    return { leftOut, faults };
  }

  async #keep(
    pathInfo: PathInfo,
    received: ReadonlyMap<Digest, Directory>,
    options: CallOptions,
  ): Promise<void> {
    const { node } = pathInfo;
    if (node.type === "directory") {
      // Those that an earlier path brought are put again: its own put may not have ended yet.
      const directories = childrenFirst(node.digest, received);
      if (directories.length > 0) await this.#near.directories.putClosure(directories, options);
    }
    const recipe = node.type === "symlink" ? undefined : this.#recipes.get(node.digest);
    this.#loaded.set(storePathHash(pathInfo.storePath), { pathInfo, recipe });
  }

  async #keepSummary(
    pathInfo: PathInfo,
    summary: TreeSummary,
    options: CallOptions,
  ): Promise<void> {
    const storeHash = storePathHash(pathInfo.storePath);
    const bytes = await this.#estimate(summary, options);
    if (isWhole(this.#loaded.peek(storeHash))) return;
    this.#loaded.set(storeHash, { pathInfo, summary, bytes });
  }
}

function isSummarized(known: Known | undefined): known is SummarizedPath {
  return typeof known === "object" && "summary" in known;
}

function isWhole(known: Known | undefined): known is PathMetadata {
  return typeof known === "object" && !("summary" in known);
}

/** The directories below `root` among `received`, each once, children before parents. */
function childrenFirst(root: Digest, received: ReadonlyMap<Digest, Directory>): Directory[] {
  const order: Directory[] = [];
  const entered = new Set<Digest>();
  const stack: { readonly digest: Digest; readonly isLeft: boolean }[] = [
    { digest: root, isLeft: false },
  ];
  for (let top = stack.pop(); top !== undefined; top = stack.pop()) {
    const directory = received.get(top.digest);
    if (directory === undefined) continue;
    if (top.isLeft) {
      order.push(directory);
    } else if (!entered.has(top.digest)) {
      entered.add(top.digest);
      stack.push({ digest: top.digest, isLeft: true });
      for (const { node } of directory.entries) {
        if (node.type === "directory") stack.push({ digest: node.digest, isLeft: false });
      }
    }
  }
  return order;
}
