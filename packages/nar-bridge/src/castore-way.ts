import {
  type CallOptions,
  ChunkFetcher,
  type DirectoryService,
  isCastoreError,
} from "@castore/castore";
import type { CastoreEndpoint } from "./castore-endpoint.ts";
import { CastoreMetadata } from "./castore-metadata.ts";

/** How long a castore server that failed is left alone, doubling with each failure. */
export const CASTORE_REST_MS = 30_000;
export const CASTORE_REST_MS_MAX = 600_000;

/**
 * One castore server as a way to NARs: its metadata, its chunks, and whether it works at present.
 */
export class CastoreWay implements Disposable {
  readonly endpoint: CastoreEndpoint;
  readonly metadata: CastoreMetadata;
  readonly fetcher: ChunkFetcher;
  readonly #now: () => number;
  #restsUntil = 0;
  #restMs = CASTORE_REST_MS;

  constructor(
    endpoint: CastoreEndpoint,
    directories: DirectoryService,
    now: () => number = Date.now,
  ) {
    this.endpoint = endpoint;
    this.metadata = new CastoreMetadata(endpoint, directories);
    this.fetcher = new ChunkFetcher(endpoint);
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

  /** Notes a failure; that a path is not there, or would cost more, is none. */
  failed(error: unknown): void {
    if (isCastoreError(error, "INCOMPLETE") || isCastoreError(error, "UNSUPPORTED")) return;
    this.#restsUntil = this.#now() + this.#restMs;
    this.#restMs = Math.min(2 * this.#restMs, CASTORE_REST_MS_MAX);
  }

  /** Whether the server answers and speaks our version; a failure is noted. */
  async isUsable(options: CallOptions): Promise<boolean> {
    if (this.isResting) return false;
    try {
      await this.endpoint.info(options);
      return true;
    } catch (error) {
      options.signal?.throwIfAborted();
      this.failed(error);
      if (isCastoreError(error, "UNSUPPORTED"))
        this.#restsUntil = this.#now() + CASTORE_REST_MS_MAX;
      return false;
    }
  }

  [Symbol.dispose](): void {
    this.fetcher[Symbol.dispose]();
  }
}
