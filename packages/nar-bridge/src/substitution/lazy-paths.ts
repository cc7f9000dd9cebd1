import {
  type BlobRecipe,
  type BlobService,
  type CallOptions,
  CHUNK_SIZES,
  type Digest,
  type LocalStore,
  messageOf,
  planTree,
  type Recipe,
  walkFiles,
} from "@castore/castore";
import type { Log } from "../log.ts";
import { normalReferences } from "../nix/normal-references.ts";
import type { TrustedRootKeys } from "../nix/signed-root.ts";
import { type StoreHash, storePathHash } from "../nix/store-path.ts";
import type { TrustedKeys } from "../nix/trusted-keys.ts";
import type { LocalPathInfoService } from "../path-infos/local-path-info-service.ts";
import type { PathInfo } from "../path-infos/path-info.ts";
import type { StoredPathInfo } from "../path-infos/stored-path-info.ts";
import type { CastoreWay, ClaimedPath } from "./castore-way.ts";
import type { Substituter } from "./substituter.ts";

export interface LazyPathsOptions {
  /** Where blobs go that come one by one. Default: the store. */
  readonly contents?: Pick<LocalStore, "blobs" | "blobsFor"> | undefined;
  readonly store: LocalStore;
  /** Knows the root keys. */
  readonly pathInfos: LocalPathInfoService;
  readonly substituter: Pick<Substituter, "claim">;
  readonly trustedKeys: TrustedKeys;
  readonly log: Log;
}

/** How a blob below a lazy path is fetched. */
export interface BlobSource {
  readonly blob: BlobRecipe;
  /** What its occurrences refer to. */
  readonly references: readonly string[];
  /** Where it goes. */
  readonly near: BlobService;
  readonly way: CastoreWay;
}

/** Knows where blobs are that are not here. */
export interface BlobSources {
  /** Where a blob can be fetched, best first. `size` is that of a verified node. */
  sources(
    digest: Digest,
    size: number | undefined,
    options: CallOptions,
  ): Promise<readonly BlobSource[]>;
  /** A path that has the file, for when nobody gives it by itself. */
  pathWith(digest: Digest, options?: CallOptions): Promise<StoreHash | undefined>;
}

interface LazyPath {
  readonly stored: StoredPathInfo;
  /** Where its contents come from, once that was asked. */
  source?: { readonly way: CastoreWay; readonly recipe: Recipe | undefined };
}

/**
 * Store paths that are used before they are here: a trusted key vouches for their roots, beside the
 * trusted signature of the narinfo. Their directories are in the store, and what a castore server
 * says of their contents is kept here.
 */
export class LazyPaths implements BlobSources {
  readonly #options: LazyPathsOptions;
  readonly #contents: Pick<LocalStore, "blobs" | "blobsFor">;
  readonly #paths = new Map<StoreHash, LazyPath>();
  /** Blobs of several chunks, or with references, of paths whose source is known. */
  readonly #listed = new Map<Digest, BlobSource>();
  readonly #ways = new Set<CastoreWay>();
  readonly #unasked = new Set<StoreHash>();
  #asking: Promise<void> | undefined;

  constructor(options: LazyPathsOptions) {
    this.#options = options;
    this.#contents = options.contents ?? options.store;
  }

  /**
   * The path info of a path whose root is a directory that a trusted root key vouches for; it is in
   * the store then, and its directories, and so is whatever it refers to that is vouched for, where
   * the server tells of all in one answer. Undefined where there is none, for reasons that are
   * logged.
   */
  async vouched(storeHash: StoreHash, options: CallOptions = {}): Promise<PathInfo | undefined> {
    const rootKeys = this.#options.pathInfos.rootKeys();
    if (rootKeys.keys.length === 0) return undefined;
    const claim = await this.#options.substituter.claim(storeHash, options);
    if (claim === undefined) return undefined;
    try {
      using _lease = this.#options.store.lease();
      return await this.#take(storeHash, claim, rootKeys, options);
    } catch (error) {
      options.signal?.throwIfAborted();
      claim.way.failed(error);
      this.#options.log(`${storeHash}: is not used lazily: ${messageOf(error)}`);
      return undefined;
    }
  }

  /** Says that a path which was vouched for earlier is used. */
  use(stored: StoredPathInfo): void {
    const storeHash = storePathHash(stored.pathInfo.storePath);
    if (stored.proof.by === "rendered" || this.#paths.has(storeHash)) return;
    this.#paths.set(storeHash, { stored });
    this.#unasked.add(storeHash);
  }

  async sources(
    digest: Digest,
    size: number | undefined,
    options: CallOptions,
  ): Promise<readonly BlobSource[]> {
    if (this.#unasked.size > 0) {
      this.#asking ??= this.#ask(options).finally(() => {
        this.#asking = undefined;
      });
      await this.#asking;
    }
    const listed = this.#listed.get(digest);
    if (listed !== undefined) return [listed];
    const near = this.#contents.blobs;
    return [...this.#ways].flatMap((way) => plainSources({ digest, size }, near, way));
  }

  async pathWith(digest: Digest, options: CallOptions = {}): Promise<StoreHash | undefined> {
    const { directories } = this.#options.store;
    const get = (directory: Digest) => directories.get(directory, options);
    for (const [storeHash, { stored }] of this.#paths) {
      for await (const file of walkFiles(stored.pathInfo.node, get, options)) {
        if (file.digest === digest) return storeHash;
      }
    }
    return undefined;
  }

  /**
   * Renders the NARs of the paths that are whole by now: they are proven then, or the key that
   * vouched is barred.
   */
  async prove(options: CallOptions = {}): Promise<void> {
    const { store, pathInfos, log } = this.#options;
    for (const [storeHash, { stored, source }] of this.#paths) {
      if (source === undefined) continue;
      using _lease = store.lease();
      const plan = await planTree(stored.pathInfo.node, source.recipe, store, options);
      if (plan.blobs.size > 0) continue;
      this.#paths.delete(storeHash);
      await pathInfos.proveVouched(stored, options).catch((error: unknown) => {
        options.signal?.throwIfAborted();
        log(`${stored.pathInfo.storePath}: ${messageOf(error)}`);
      });
    }
  }

  async #take(
    wanted: StoreHash,
    { narInfo, way }: ClaimedPath,
    rootKeys: TrustedRootKeys,
    options: CallOptions,
  ): Promise<PathInfo | undefined> {
    const { pathInfos } = this.#options;
    const { features } = await way.endpoint.info(options);
    const claimed = features.has("closure")
      ? await way.metadata.closure([wanted], options)
      : [(await way.metadata.get(wanted, options))?.pathInfo];
    const vouched: StoredPathInfo[] = [];
    let found: PathInfo | undefined;
    for (const pathInfo of claimed) {
      const stored = pathInfo && this.#believed(pathInfo, rootKeys);
      if (stored === undefined) continue;
      const storeHash = storePathHash(stored.pathInfo.storePath);
      if (storeHash === wanted && stored.pathInfo.narHash === narInfo.narHash) {
        found = stored.pathInfo;
      }
      if ((await pathInfos.getStored(storeHash, options)) === undefined) vouched.push(stored);
    }
    await pathInfos.putStored(vouched, options);
    for (const stored of vouched) await this.#register(stored, way, options);
    return found;
  }

  /** The path info and who vouches for its root; undefined where that does not suffice. */
  #believed(pathInfo: PathInfo, rootKeys: TrustedRootKeys): StoredPathInfo | undefined {
    if (pathInfo.node.type !== "directory") return undefined;
    if (this.#options.trustedKeys.verify(pathInfo) === undefined) return undefined;
    const key = rootKeys.verify(pathInfo);
    return key && { pathInfo, proof: { by: "vouched", key: key.text } };
  }

  async #register(stored: StoredPathInfo, way: CastoreWay, options: CallOptions): Promise<boolean> {
    const { pathInfo } = stored;
    const storeHash = storePathHash(pathInfo.storePath);
    const others = () => [...this.#unasked];
    const metadata = await way.metadata.get(storeHash, { ...options, others });
    const { node } = metadata?.pathInfo ?? {};
    if (metadata === undefined || node?.type !== "directory") return false;
    if (pathInfo.node.type !== "directory" || node.digest !== pathInfo.node.digest) return false;
    const { recipe } = metadata;
    const near = this.#contents.blobsFor(normalReferences(pathInfo));
    for (const blob of recipe?.blobs ?? []) {
      this.#listed.set(blob.digest, { blob, references: recipe?.references ?? [], near, way });
    }
    this.#ways.add(way);
    this.#paths.set(storeHash, { stored, source: { way, recipe } });
    this.#unasked.delete(storeHash);
    return true;
  }

  /** Asks where the paths that were vouched for earlier come from: few requests for all. */
  async #ask(options: CallOptions): Promise<void> {
    let claim: ClaimedPath | undefined;
    for (const storeHash of [...this.#unasked]) {
      const path = this.#paths.get(storeHash);
      try {
        if (path === undefined) this.#unasked.delete(storeHash);
        else if (claim && (await this.#register(path.stored, claim.way, options))) continue;
        claim = await this.#options.substituter.claim(storeHash, options);
        if (path && claim) await this.#register(path.stored, claim.way, options);
      } catch (error) {
        options.signal?.throwIfAborted();
        claim?.way.failed(error);
        this.#options.log(`${storeHash}: ${messageOf(error)}`);
      }
    }
  }
}

/** Where a blob that no recipe lists is fetched: it is its own only chunk. */
export function plainSources(
  { digest, size }: { readonly digest: Digest; readonly size: number | undefined },
  near: BlobService,
  way: CastoreWay,
): BlobSource[] {
  if (size === undefined || size > CHUNK_SIZES.max) return [];
  const chunks = [{ digest, size, wireSize: undefined }];
  return [{ blob: { digest, size, chunks, occurrences: [] }, references: [], near, way }];
}
