import {
  type CallOptions,
  CLOSURE_REQUEST_KNOWN_MAX,
  CLOSURE_REQUEST_WANTED_MAX,
  type Digest,
  type Directory,
  type DirectoryService,
  decodeDirectory,
  decodeRecipe,
  digestOf,
  type Recipe,
} from "@castore/castore";
import { LRUCache } from "lru-cache";
import { type StoreHash, storePathHash } from "../nix/store-path.ts";
import type { ClosureRecord } from "../path-infos/closure-stream.ts";
import type { PathInfo } from "../path-infos/path-info.ts";
import { decodeSignedPathInfo } from "../path-infos/path-info-codec.ts";
import type { CastoreEndpoint, CostOptions } from "./castore-endpoint.ts";
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

interface LoadResult {
  /** Paths that the server left out. */
  readonly leftOut: readonly StoreHash[];
  /** Paths whose directories cannot be stored, and why. */
  readonly faults: ReadonlyMap<StoreHash, unknown>;
}

/**
 * Asks a castore server for the metadata of paths, many at once, and keeps it for a while. Nothing
 * of it is proven but the directories, by their digests.
 */
export class CastoreMetadata {
  readonly #endpoint: CastoreEndpoint;
  readonly #directories: DirectoryService;
  readonly #loaded = new LRUCache<StoreHash, PathMetadata | "absent">({
    max: PATHS_MAX,
    ttl: TTL_MS,
  });
  readonly #recipes = new LRUCache<Digest, Recipe>({ max: PATHS_MAX, ttl: TTL_MS });
  readonly #underWay = new Map<StoreHash, Promise<void>>();

  constructor(endpoint: CastoreEndpoint, directories: DirectoryService) {
    this.#endpoint = endpoint;
    this.#directories = directories;
  }

  /** What was claimed of the path before. */
  known(storeHash: StoreHash): PathMetadata | undefined {
    const known = this.#loaded.peek(storeHash);
    return known === "absent" ? undefined : known;
  }

  /**
   * The metadata of `storeHash`; undefined where the server does not have the path. One request
   * asks for what is wanted soon, too, where the server can.
   */
  async get(
    storeHash: StoreHash,
    options: ContentsOptions = {},
  ): Promise<PathMetadata | undefined> {
    for (;;) {
      const known = this.#loaded.get(storeHash);
      if (known === "absent") return undefined;
      if (known !== undefined && (await this.#isThere(known, options))) return known;
      const underWay = this.#underWay.get(storeHash);
      if (underWay === undefined) return await this.#ask(storeHash, options);
      // Its request may end with another caller's signal: then this caller asks himself.
      await underWay.catch(() => options.signal?.throwIfAborted());
    }
  }

  async #ask(storeHash: StoreHash, options: ContentsOptions): Promise<PathMetadata | undefined> {
    this.#loaded.delete(storeHash);
    const closure = options.closure?.() ?? [];
    const { faults } = await this.#loadWith(storeHash, closure, options);
    const loaded = this.#loaded.get(storeHash);
    if (faults.has(storeHash)) throw faults.get(storeHash);
    if (loaded === undefined) this.#loaded.set(storeHash, "absent");
    options.onDescribed?.();
    return loaded === "absent" ? undefined : loaded;
  }

  async #loadWith(
    storeHash: StoreHash,
    closure: readonly StoreHash[],
    options: ContentsOptions,
  ): Promise<LoadResult> {
    // Under way before anything is awaited: nobody asks for a path twice.
    const wanted = this.#unknown([storeHash, ...closure, ...(options.others?.() ?? [])]);
    return await this.#underWayFor(wanted, async () => {
      const { features } = await this.#endpoint.info(options);
      if (features.has("closure")) return await this.#load(wanted, false, options);
      // A static server answers for one path at a time, or for all below a path that was exported.
      const top = closure.at(-1);
      if (top !== undefined && closure.length > 1) {
        const records = await this.#endpoint.closureFile(top, options);
        const result = records && (await this.#receive(records, undefined, options));
        if (result !== undefined && this.#loaded.has(storeHash)) return result;
      }
      return await this.#load([storeHash], false, options);
    });
  }

  /** Whether its directories are still in the store: they may have been collected since. */
  async #isThere({ pathInfo }: PathMetadata, options: CallOptions): Promise<boolean> {
    const { node } = pathInfo;
    if (node.type !== "directory") return true;
    return (await this.#directories.get(node.digest, options)) !== undefined;
  }

  /** The path infos of `storeHashes` and all they refer to, as far as the server has them. */
  async closure(
    storeHashes: readonly StoreHash[],
    options: CostOptions = {},
  ): Promise<readonly PathInfo[]> {
    const found = new Map<StoreHash, PathInfo>();
    let open = [...storeHashes];
    while (open.length > 0) {
      const asked = open.slice(0, CLOSURE_REQUEST_WANTED_MAX);
      const load = () => this.#load(asked, true, options, found);
      const { leftOut } = await this.#underWayFor(asked, load);
      const more = new Set([...open.slice(asked.length), ...leftOut]);
      open = [...more].filter((storeHash) => !found.has(storeHash) && !asked.includes(storeHash));
    }
    return [...found.values()];
  }

  /** The first of `storeHashes`, and those of the others that nothing is known of. */
  #unknown([first, ...others]: readonly [StoreHash, ...StoreHash[]]): StoreHash[] {
    const wanted = new Set([first]);
    for (const other of others) {
      if (wanted.size === CLOSURE_REQUEST_WANTED_MAX) break;
      if (!this.#loaded.has(other) && !this.#underWay.has(other)) wanted.add(other);
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
    references: boolean,
    options: CostOptions,
    found?: Map<StoreHash, PathInfo>,
  ): Promise<LoadResult> {
    // Naming too many as known is no use: the server then sends some again.
    const known = [...(found?.keys() ?? [])].slice(0, CLOSURE_REQUEST_KNOWN_MAX).sort();
    const request = { wanted: storeHashes, follow: references, known };
    return await this.#receive(this.#endpoint.closure(request, options), found, options);
  }

  async #receive(
    records: AsyncIterable<ClosureRecord>,
    found: Map<StoreHash, PathInfo> | undefined,
    options: CallOptions,
  ): Promise<LoadResult> {
    const leftOut: StoreHash[] = [];
    const faults = new Map<StoreHash, unknown>();
    const directories = new Map<Digest, Directory>();
    const stored: Promise<void>[] = [];
    let pathInfo: PathInfo | undefined;
    const finish = () => {
      if (pathInfo === undefined) return;
      const storeHash = storePathHash(pathInfo.storePath);
      const keeping = this.#keep(pathInfo, directories, found, options);
      stored.push(keeping.catch((error: unknown) => void faults.set(storeHash, error)));
    };
    for await (const record of records) {
      switch (record.kind) {
        case "pathInfo":
          finish();
          pathInfo = decodeSignedPathInfo(record.bytes);
          break;
        case "directory":
          directories.set(digestOf(record.bytes), decodeDirectory(record.bytes));
          break;
        case "recipe":
          this.#recipes.set(record.root, decodeRecipe(record.bytes));
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
    found: Map<StoreHash, PathInfo> | undefined,
    options: CallOptions,
  ): Promise<void> {
    const { node } = pathInfo;
    if (node.type === "directory") {
      // Those that an earlier path brought are put again: its own put may not have ended yet.
      const directories = childrenFirst(node.digest, received);
      if (directories.length > 0) await this.#directories.putClosure(directories, options);
    }
    const storeHash = storePathHash(pathInfo.storePath);
    const recipe = node.type === "symlink" ? undefined : this.#recipes.get(node.digest);
    this.#loaded.set(storeHash, { pathInfo, recipe });
    found?.set(storeHash, pathInfo);
  }
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
