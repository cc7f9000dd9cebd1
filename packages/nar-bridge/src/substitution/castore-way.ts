import {
  type CallOptions,
  ChunkFetcher,
  type DirectoryService,
  isCastoreError,
} from "@castore/castore";
import type { NarInfo } from "../nix/nar-info.ts";
import type { CastoreEndpoint } from "./castore-endpoint.ts";
import { CastoreMetadata } from "./castore-metadata.ts";

/** How long a castore server that failed is left alone, doubling with each failure. */
export const CASTORE_REST_MS = 30_000;
export const CASTORE_REST_MS_MAX = 600_000;

export interface CastoreWayOptions {
  readonly endpoint: CastoreEndpoint;
  readonly directories: DirectoryService;
  /** Told when the server begins to be left alone, and why. */
  readonly onRest: (ms: number, reason: unknown) => void;
  readonly now?: () => number;
}

/**
 * One castore server as a way to NARs: its metadata, its chunks, and whether it works at present.
 */
export class CastoreWay implements Disposable {
  readonly endpoint: CastoreEndpoint;
  readonly metadata: CastoreMetadata;
  readonly fetcher: ChunkFetcher;
  readonly #onRest: CastoreWayOptions["onRest"];
  readonly #now: () => number;
  #restsUntil = 0;
  #restMs = CASTORE_REST_MS;

  constructor({ endpoint, directories, onRest, now = Date.now }: CastoreWayOptions) {
    this.endpoint = endpoint;
    this.metadata = new CastoreMetadata(endpoint, directories);
    this.fetcher = new ChunkFetcher(endpoint);
    this.#onRest = onRest;
    this.#now = now;
  }

  /** Whether the server is left alone after a failure. */
  get isResting(): boolean {
    return this.#now() < this.#restsUntil;
  }

  /** Notes that the server did its part. */
  worked(): void {
    this.#restMs = CASTORE_REST_MS;
  }

  /** Notes a failure; UNSUPPORTED is none: this path is not there, or would cost more. */
  failed(error: unknown): void {
    if (!isCastoreError(error, "UNSUPPORTED")) this.#rest(this.#restMs, error);
  }

  /** Whether the server answers and speaks our version; a failure is noted. */
  async isUsable(options: CallOptions): Promise<boolean> {
    if (this.isResting) return false;
    try {
      await this.endpoint.info(options);
      return true;
    } catch (error) {
      options.signal?.throwIfAborted();
      const isOther = isCastoreError(error, "UNSUPPORTED");
      this.#rest(isOther ? CASTORE_REST_MS_MAX : this.#restMs, error);
      return false;
    }
  }

  [Symbol.dispose](): void {
    this.fetcher[Symbol.dispose]();
  }

  #rest(ms: number, reason: unknown): void {
    // What was under way when the first failed says nothing new.
    if (this.isResting) return;
    this.#restsUntil = this.#now() + ms;
    this.#restMs = Math.min(2 * this.#restMs, CASTORE_REST_MS_MAX);
    this.#onRest(ms, reason);
  }
}

/** A path that a trusted narinfo names, and the castore server to ask for it. */
export interface ClaimedPath {
  readonly narInfo: NarInfo;
  readonly way: CastoreWay;
}
