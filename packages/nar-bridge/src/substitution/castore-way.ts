import {
  CastoreError,
  ChunkFetcher,
  FETCH_BYTES_MAX,
  FETCH_ITEMS_MAX,
  FETCH_PARALLEL,
  isCastoreError,
  type LocalStore,
  type TreePlan,
} from "@castore/castore";
import type { NarInfo } from "../nix/nar-info.ts";
import { type StoreHash, storePathHash } from "../nix/store-path.ts";
import {
  type CastoreEndpoint,
  type CostOptions,
  SINGLE_CHUNKS_PARALLEL,
} from "./castore-endpoint.ts";
import { CastoreMetadata } from "./castore-metadata.ts";
import type {
  ContentsOptions,
  ContentsServer,
  PathContents,
  PathEstimate,
} from "./contents-server.ts";
import type { Offer } from "./price-list.ts";
import { ServerRest, type ServerRestOptions } from "./server-rest.ts";

export interface CastoreWayOptions extends ServerRestOptions {
  readonly endpoint: CastoreEndpoint;
  readonly store: Pick<LocalStore, "chunks" | "directories">;
}

/** One castore/1 server: its metadata, its chunks, and whether it works at present. */
export class CastoreWay implements ContentsServer {
  readonly name: string;
  readonly way = "castore";
  readonly endpoint: CastoreEndpoint;
  readonly metadata: CastoreMetadata;
  readonly fetcher: ChunkFetcher;
  readonly #rest: ServerRest;

  constructor({ endpoint, store, ...rest }: CastoreWayOptions) {
    this.name = `castore at ${endpoint.base.href}`;
    this.endpoint = endpoint;
    this.metadata = new CastoreMetadata(endpoint, store);
    this.fetcher = new ChunkFetcher(endpoint);
    this.#rest = new ServerRest(rest);
  }

  get tellsOfMany(): boolean {
    return this.endpoint.features.has("closure");
  }

  async isUsable(options: CostOptions): Promise<boolean> {
    if (this.#rest.isResting) return false;
    try {
      await this.endpoint.info(options);
      return true;
    } catch (error) {
      options.signal?.throwIfAborted();
      if (isCastoreError(error, "UNSUPPORTED")) this.#rest.cannot(error);
      else this.#rest.failed(error);
      return false;
    }
  }

  isDescribed(storeHash: StoreHash): boolean {
    return this.metadata.known(storeHash) !== undefined;
  }

  async describe(
    narInfo: NarInfo,
    options: ContentsOptions = {},
  ): Promise<PathContents | PathEstimate | undefined> {
    const known = await this.metadata.find(storePathHash(narInfo.storePath), options);
    if (known === undefined) return undefined;
    const { pathInfo } = known;
    if (pathInfo.narHash !== narInfo.narHash || pathInfo.narSize !== narInfo.narSize) {
      throw new CastoreError("CORRUPT", `${this.name} has another ${narInfo.storePath}`);
    }
    if ("summary" in known) return { estimate: this.#offer(known.bytes, 1, 1) };
    const { recipe } = known;
    return { node: pathInfo.node, recipe, rootSignatures: pathInfo.rootSignatures };
  }

  async offer(tree: TreePlan): Promise<Offer> {
    const { features } = await this.endpoint.info();
    const isBatched = features.has("fetch");
    const batches = Math.max(
      Math.ceil(tree.missingCount / FETCH_ITEMS_MAX),
      Math.ceil(tree.missingBytes / FETCH_BYTES_MAX),
    );
    return isBatched
      ? this.#offer(tree.wireBytes, batches, FETCH_PARALLEL)
      : this.#offer(tree.wireBytes, tree.missingCount, SINGLE_CHUNKS_PARALLEL);
  }

  #offer(bytes: number, requests: number, parallel: number): Offer {
    return { kind: "chunks", bytes, requests, parallel, link: this.endpoint.link() };
  }

  worked(): void {
    this.#rest.worked();
  }

  failed(error: unknown): void {
    this.#rest.failed(error);
  }

  [Symbol.dispose](): void {
    this.fetcher[Symbol.dispose]();
  }
}

/** A path that a trusted narinfo names, and the castore server to ask for it. */
export interface ClaimedPath {
  readonly narInfo: NarInfo;
  readonly way: CastoreWay;
}
