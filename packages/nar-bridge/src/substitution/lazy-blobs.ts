import { setImmediate } from "node:timers/promises";
import {
  AssembledBlobs,
  type BlobReader,
  type BlobService,
  type ChunkPlan,
  type Digest,
  isCastoreError,
  type LocalStore,
  type OpenBlobOptions,
  type RecipeChunk,
} from "@castore/castore";
import type { Log } from "../log.ts";
import type { CastoreWay } from "./castore-way.ts";
import type { BlobSource, LazyPaths } from "./lazy-paths.ts";
import type { Substituter } from "./substituter.ts";

export interface LazyBlobsOptions {
  readonly store: LocalStore;
  readonly paths: LazyPaths;
  /** For a blob that no castore server gives: its path is then fetched whole. */
  readonly substituter: Pick<Substituter, "substitute">;
  readonly log: Log;
}

/** A connection may have been closed while it was not used. */
const TRIES = 2;

interface Flight {
  readonly source: BlobSource;
  /** Chunks that are not at hand. */
  readonly missing: readonly RecipeChunk[];
  resolve(): void;
  reject(error: unknown): void;
}

/**
 * The blobs of a local store and of lazy paths, which are fetched and stored, verified, when they
 * are opened. What is opened at the same time is fetched together.
 */
export class LazyBlobs implements Pick<BlobService, "open"> {
  readonly #options: LazyBlobsOptions;
  readonly #fetching = new Map<Digest, Promise<void>>();
  /** What the next request asks for. */
  #gathered: Flight[] = [];
  #gathering: Promise<void> | undefined;

  constructor(options: LazyBlobsOptions) {
    this.#options = options;
  }

  async open(digest: Digest, options: OpenBlobOptions = {}): Promise<BlobReader | undefined> {
    const { blobs } = this.#options.store;
    const local = await blobs.open(digest, options);
    if (local !== undefined) return local;
    let fetching = this.#fetching.get(digest);
    if (fetching === undefined) {
      fetching = this.#fetch(digest, options).finally(() => this.#fetching.delete(digest));
      this.#fetching.set(digest, fetching);
    }
    await fetching;
    return blobs.open(digest, options);
  }

  /** Brings a blob into the store, if need be with its whole path; rejects where that fails. */
  async #fetch(digest: Digest, options: OpenBlobOptions): Promise<void> {
    const { paths, substituter, log } = this.#options;
    const signal = options.signal ?? new AbortController().signal;
    for (const source of await paths.sources(digest, options.size, { signal })) {
      if (await this.#hasFetched(source, signal)) return;
    }
    const storeHash = await paths.pathWith(digest, { signal });
    if (storeHash !== undefined) {
      log(`blob ${digest}: is had with all of ${storeHash}`);
      await substituter.substitute(storeHash, { signal });
    }
  }

  /** Whether the blob came from there, if need be at the second try. */
  async #hasFetched(source: BlobSource, signal: AbortSignal): Promise<boolean> {
    const { blob, way } = source;
    for (let tries = 1; ; tries++) {
      try {
        await this.#fetchFrom(source, signal);
        return true;
      } catch (error) {
        signal.throwIfAborted();
        if (tries < TRIES && isCastoreError(error, "UNAVAILABLE")) continue;
        way.failed(error);
        const server = way.endpoint.base.href;
        this.#options.log(`blob ${blob.digest} by castore at ${server}: ${messageOf(error)}`);
        return false;
      }
    }
  }

  async #fetchFrom(source: BlobSource, signal: AbortSignal): Promise<void> {
    const { chunks } = source.blob;
    const found = await this.#options.store.chunks.has(
      chunks.map(({ digest }) => digest),
      { signal },
    );
    const missing = chunks.filter((_, index) => found[index] !== true);
    await new Promise<void>((resolve, reject) => {
      this.#gathered.push({ source, missing, resolve, reject });
      this.#gathering ??= setImmediate().then(() => this.#send());
    });
  }

  #send(): void {
    const gathered = this.#gathered;
    this.#gathered = [];
    this.#gathering = undefined;
    const byWay = new Map<CastoreWay, Flight[]>();
    for (const flight of gathered) {
      const flights = byWay.get(flight.source.way) ?? [];
      byWay.set(flight.source.way, flights);
      flights.push(flight);
    }
    for (const [way, flights] of byWay) void this.#fetchTogether(way, flights);
  }

  async #fetchTogether(way: CastoreWay, flights: readonly Flight[]): Promise<void> {
    using plan = way.fetcher.plan(flights.flatMap(({ missing }) => missing));
    await Promise.all(
      flights.map((flight) => this.#assemble(flight, plan).then(flight.resolve, flight.reject)),
    );
  }

  async #assemble({ source, missing }: Flight, chunks: ChunkPlan): Promise<void> {
    const { blob, references, near } = source;
    const size = (of: readonly RecipeChunk[]) => of.reduce((sum, chunk) => sum + chunk.size, 0);
    const tree = {
      blobs: new Map([[blob.digest, blob]]),
      missing,
      fileBytes: blob.size,
      missingBytes: size(missing),
      wireBytes: size(missing),
      missingCount: missing.length,
    };
    const index = this.#options.store.chunks;
    await using blobs = new AssembledBlobs({ tree, references, index, chunks, near });
    const reader = await blobs.open(blob.digest);
    for await (const _piece of reader?.stream() ?? []) {
      // It is stored on the way.
    }
    await blobs.stored();
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
