import {
  AssembledBlobs,
  type BlobReader,
  type BlobService,
  type CallOptions,
  CastoreError,
  type ChunkMeta,
  type ChunkPlan,
  type Digest,
  isCastoreError,
  messageOf,
  type OpenBlobOptions,
  type RecipeChunk,
} from "@castore/castore";
import type { Log } from "../log.ts";
import { GatheredFetches } from "./gathered-fetches.ts";
import type { BlobSource, BlobSources } from "./lazy-paths.ts";
import { type ContentsStore, LazyRanges } from "./lazy-ranges.ts";
import type { Substituter } from "./substituter.ts";

export interface LazyBlobsOptions {
  readonly store: ContentsStore;
  readonly paths: BlobSources;
  /** For a blob that no castore server gives: its path is then fetched whole. */
  readonly substituter: Pick<Substituter, "substitute">;
  readonly log: Log;
  /** What to fetch along with a blob that is opened, but not to be read as a whole: likely next. */
  readonly neighbours?: ((blob: ChunkMeta) => readonly ChunkMeta[]) | undefined;
  /** Most chunks, of 512 KiB at most, that are kept in memory. Default 48. */
  readonly chunksMax?: number | undefined;
  /** Larger blobs stay chunks, also when all of them have been here. Default: none does. */
  readonly joinBytesMax?: number | undefined;
}

/** A connection may have been closed while it was not used. */
const TRIES = 2;

/**
 * The blobs of a local store and of paths that are used before they are here. One that is not
 * there is fetched and stored, verified, when it is opened; of a large one the parts that are read,
 * where the server offers that. What is wanted at the same time is fetched together.
 */
export class LazyBlobs implements Pick<BlobService, "open"> {
  readonly #options: LazyBlobsOptions;
  readonly #fetches = new GatheredFetches();
  readonly #ranges: LazyRanges;
  readonly #fetching = new Map<Digest, Promise<void>>();
  /** What comes along with others; these never reject. */
  readonly #along = new Map<Digest, Promise<void>>();
  readonly #joining = new Set<Promise<void>>();

  constructor(options: LazyBlobsOptions) {
    this.#options = options;
    this.#ranges = new LazyRanges({
      store: options.store,
      fetches: this.#fetches,
      chunksMax: options.chunksMax,
      onWhole: (source) => {
        if (source.blob.size > (options.joinBytesMax ?? Number.POSITIVE_INFINITY)) return;
        const joining = this.#join(source).finally(() => this.#joining.delete(joining));
        this.#joining.add(joining);
      },
    });
  }

  async open(digest: Digest, options: OpenBlobOptions = {}): Promise<BlobReader | undefined> {
    const { store, paths } = this.#options;
    await this.#along.get(digest);
    const local = await store.blobs.open(digest, options);
    if (local !== undefined) return local;
    if (options.whole !== true) {
      const [source] = await paths.sources(digest, options.size, options);
      if (source && (await this.#ranges.isOffered(source, options))) return this.#partial(source);
    }
    const coming = this.#bring(digest, options);
    if (options.whole !== true) this.#bringAlong(digest, options.size);
    await coming;
    return store.blobs.open(digest, options);
  }

  /** Resolves once what came is in the store. */
  async idle(): Promise<void> {
    await this.#ranges.idle();
    await Promise.allSettled([
      ...this.#fetching.values(),
      ...this.#along.values(),
      ...this.#joining,
    ]);
  }

  /** A reader of a blob that is not here. Where parts cannot be had, all of it is fetched. */
  #partial(source: BlobSource): BlobReader {
    const { digest, size } = source.blob;
    const close = async (): Promise<void> => {};
    const whole = async (options: CallOptions): Promise<BlobReader> => {
      await this.#bring(digest, { ...options, size });
      const reader = await this.#options.store.blobs.open(digest, options);
      if (reader !== undefined) return reader;
      throw new CastoreError("INCOMPLETE", `blob ${digest}: nobody has it`);
    };
    const ranges = this.#ranges;
    const note = (error: unknown): void => this.#note(source, error);
    return {
      size,
      async *stream(start = 0, end = size, options = {}) {
        let at = start;
        try {
          for await (const piece of ranges.stream(source, { start, end }, options)) {
            at += piece.byteLength;
            yield piece;
          }
        } catch (error) {
          options.signal?.throwIfAborted();
          note(error);
          await using reader = await whole(options);
          yield* reader.stream(at, end, options);
        }
      },
      close,
      [Symbol.asyncDispose]: close,
    };
  }

  /** All chunks of the blob have been here: it is put together and stored. */
  async #join(source: BlobSource): Promise<void> {
    await this.#ranges.idle();
    const { digest, size } = source.blob;
    await this.#bring(digest, { size }).catch((error: unknown) => this.#note(source, error));
  }

  /** Brings a blob into the store, once however many wait for it. */
  async #bring(digest: Digest, options: OpenBlobOptions): Promise<void> {
    let fetching = this.#fetching.get(digest);
    if (fetching === undefined) {
      fetching = this.#fetch(digest, options).finally(() => this.#fetching.delete(digest));
      this.#fetching.set(digest, fetching);
    }
    await fetching;
  }

  /** Starts fetching what is likely to be read next, in the same request; what fails is left. */
  #bringAlong(digest: Digest, size: number | undefined): void {
    const files = size === undefined ? [] : this.#options.neighbours?.({ digest, size });
    for (const file of files ?? []) {
      if (this.#fetching.has(file.digest)) continue;
      const coming = this.#fetchAlong(file)
        .catch(() => {}) // whoever needs it is told
        .finally(() => this.#along.delete(file.digest));
      this.#along.set(file.digest, coming);
    }
  }

  async #fetchAlong({ digest, size }: ChunkMeta): Promise<void> {
    const { store, paths } = this.#options;
    const { signal } = new AbortController();
    const [isHeld] = await store.chunks.has([digest], { signal });
    if (isHeld === true) return;
    const [source] = await paths.sources(digest, size, { signal });
    if (source !== undefined) await this.#fetchFrom(source, signal);
  }

  /** If need be it comes with its whole path; rejects where that fails. */
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
    for (let tries = 1; ; tries++) {
      try {
        await this.#fetchFrom(source, signal);
        return true;
      } catch (error) {
        signal.throwIfAborted();
        if (tries < TRIES && isCastoreError(error, "UNAVAILABLE")) continue;
        source.way.failed(error);
        this.#note(source, error);
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
    const assemble = (plan: ChunkPlan) => this.#assemble(source, missing, plan);
    await this.#fetches.run(source.way, missing, assemble);
  }

  async #assemble(
    { blob, references, near }: BlobSource,
    missing: readonly RecipeChunk[],
    chunks: ChunkPlan,
  ): Promise<void> {
    const bytes = missing.reduce((sum, { size }) => sum + size, 0);
    const tree = {
      blobs: new Map([[blob.digest, blob]]),
      missing,
      fileBytes: blob.size,
      missingBytes: bytes,
      wireBytes: bytes,
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

  #note({ blob, way }: BlobSource, error: unknown): void {
    const server = way.endpoint.base.href;
    this.#options.log(`blob ${blob.digest} by castore at ${server}: ${messageOf(error)}`);
  }
}
