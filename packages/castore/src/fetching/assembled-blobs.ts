import { CastoreError } from "../castore-error.ts";
import { type Digest, EMPTY_DIGEST } from "../model/digest.ts";
import { denormalize } from "../recipes/normal-form.ts";
import type { BlobRecipe, RecipeChunk } from "../recipes/recipe.ts";
import type {
  BlobReader,
  BlobService,
  ChunkMeta,
  PutBlobOptions,
} from "../services/blob-service.ts";
import type { ChunkIndex } from "../services/chunk-index.ts";
import type { ByteSource, CallOptions } from "../streams/byte-source.ts";
import type { ChunkPlan } from "./chunk-plan.ts";
import type { TreePlan } from "./tree-plan.ts";

/** Blobs up to this are stored once they are whole; larger ones while they come. */
const BUFFERED_BYTES_MAX = 1024 * 1024;
/** Most bytes that wait to be stored. */
const STORING_BYTES_MAX = 32 * 1024 * 1024;

export interface AssembledBlobsOptions {
  readonly tree: TreePlan;
  /** Of the recipe: what occurrences refer to. */
  readonly references: readonly string[];
  /** Finds chunks at hand. */
  readonly index: ChunkIndex;
  /** Fetches the others. */
  readonly chunks: ChunkPlan;
  /** Where blobs are, and where assembled ones go. */
  readonly near: BlobService;
  readonly onChunk?: (from: "local" | "remote", size: number) => void;
}

/**
 * Blobs as they are put together from chunks: a reader gets the bytes as chunks arrive, and each
 * blob that was read to its end is stored. A blob's bytes match the chunks that the recipe names;
 * the blob's own digest is proven only when it was stored.
 */
export class AssembledBlobs implements BlobService, AsyncDisposable {
  readonly #options: AssembledBlobsOptions;
  readonly #abort = new AbortController();
  readonly #missing: ReadonlySet<Digest>;
  readonly #storing = new Set<Promise<void>>();
  #storingBytes = 0;
  #fault: { readonly error: unknown } | undefined;

  constructor(options: AssembledBlobsOptions) {
    this.#options = options;
    this.#missing = new Set(options.tree.missing.map(({ digest }) => digest));
  }

  async has(digest: Digest, options: CallOptions = {}): Promise<boolean> {
    return this.#options.tree.blobs.has(digest) || (await this.#options.near.has(digest, options));
  }

  put(source: ByteSource, options: PutBlobOptions = {}): Promise<ChunkMeta> {
    return this.#options.near.put(source, options);
  }

  async chunks(
    digest: Digest,
    options: CallOptions = {},
  ): Promise<readonly ChunkMeta[] | undefined> {
    return await this.#options.near.chunks(digest, options);
  }

  /** Opens a blob at hand or of the tree; undefined for any other. Readers start at byte 0 only. */
  async open(digest: Digest, options: CallOptions = {}): Promise<BlobReader | undefined> {
    const planned = this.#options.tree.blobs.get(digest);
    // The empty blob is in no recipe.
    if (digest === EMPTY_DIGEST) await this.#options.near.put([], options);
    // The second file of equal content finds the blob stored, or has it assembled again.
    const stored = await this.#options.near.open(digest, options);
    if (stored !== undefined || planned === undefined) return stored;
    return {
      size: planned.size,
      stream: (start = 0, end = planned.size, streamOptions = {}) =>
        start === 0 && end >= planned.size
          ? this.#assemble(planned, streamOptions)
          : rejectRange(digest),
      close: async () => {},
      [Symbol.asyncDispose]: async () => {},
    };
  }

  /** Resolves once everything read is stored; rejects CORRUPT where a blob was not its digest's. */
  async stored(): Promise<void> {
    while (this.#storing.size > 0) await Promise.all(this.#storing);
    if (this.#fault !== undefined) throw this.#fault.error;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort(new CastoreError("CLOSED", "no longer needed"));
    await Promise.allSettled(this.#storing);
  }

  async *#assemble(blob: BlobRecipe, options: CallOptions): AsyncGenerator<Uint8Array> {
    if (blob.size <= BUFFERED_BYTES_MAX) {
      const pieces: Uint8Array[] = [];
      for await (const piece of this.#pieces(blob, options)) {
        pieces.push(piece);
        yield piece;
      }
      await this.#store(blob, pieces);
      return;
    }
    const feed = new PieceFeed();
    const storing = this.#store(blob, feed);
    let whole = false;
    try {
      for await (const piece of this.#pieces(blob, options)) {
        await feed.add(piece);
        yield piece;
      }
      whole = true;
    } finally {
      feed.end(whole ? undefined : new CastoreError("CLOSED", "the reader stopped"));
    }
    await storing;
  }

  /** Starts to store a blob; resolves when another may follow. A failure shows in `stored`. */
  async #store(blob: BlobRecipe, source: Iterable<Uint8Array> | PieceFeed): Promise<void> {
    while (this.#storingBytes > STORING_BYTES_MAX && this.#storing.size > 0) {
      await Promise.race(this.#storing);
    }
    const weight = Math.min(blob.size, BUFFERED_BYTES_MAX);
    this.#storingBytes += weight;
    const { signal } = this.#abort;
    const expect = blob.digest;
    // A chunk that was fetched has its digest.
    const proven = blob.chunks[0]?.digest === expect && this.#missing.has(expect);
    const put = this.#options.near.put(source, { expect, proven, signal }).then(
      () => {},
      (error: unknown) => {
        this.#fault ??= { error };
        if (source instanceof PieceFeed) source.stopTaking();
      },
    );
    this.#storing.add(put);
    void put.finally(() => {
      this.#storing.delete(put);
      this.#storingBytes -= weight;
    });
  }

  async *#pieces(blob: BlobRecipe, options: CallOptions): AsyncGenerator<Uint8Array> {
    let offset = 0;
    for (const chunk of blob.chunks) {
      options.signal?.throwIfAborted();
      const bytes = await this.#chunk(chunk, blob.occurrences.length > 0, options);
      denormalize(bytes, offset, blob.occurrences, this.#options.references);
      offset += bytes.byteLength;
      yield bytes;
    }
    if (offset !== blob.size) {
      const what = `blob ${blob.digest} of ${blob.size} bytes`;
      throw new CastoreError("CORRUPT", `${what}: its chunks add up to ${offset}`);
    }
  }

  async #chunk(chunk: RecipeChunk, own: boolean, options: CallOptions): Promise<Uint8Array> {
    const { index, chunks, onChunk } = this.#options;
    // What was missing is taken from the plan even if it is here by now: it was fetched for this.
    const isPlanned = this.#missing.has(chunk.digest);
    const local = isPlanned ? undefined : await index.get(chunk, options);
    onChunk?.(local === undefined ? "remote" : "local", chunk.size);
    if (local !== undefined) return local;
    const fetched = await chunks.take(chunk);
    // A fetched chunk is shared; what is written to must be our own.
    return own ? Uint8Array.from(fetched) : fetched;
  }
}

async function* rejectRange(digest: Digest): AsyncGenerator<Uint8Array> {
  yield* [];
  throw new CastoreError("UNSUPPORTED", `blob ${digest}: being assembled, read from byte 0 only`);
}

/** Most bytes between the reader and the store. */
const FEED_BYTES_MAX = 4 * 1024 * 1024;

/** Hands pieces from the one who reads a blob to the one who stores it. */
class PieceFeed implements AsyncIterable<Uint8Array> {
  readonly #pieces: Uint8Array[] = [];
  #bytes = 0;
  #ended: { readonly error: unknown } | undefined;
  #stopped = false;
  #wake: () => void = () => {};

  /** Resolves when more may be added. */
  async add(piece: Uint8Array): Promise<void> {
    if (this.#stopped) return;
    this.#pieces.push(piece);
    this.#bytes += piece.byteLength;
    this.#wake();
    while (this.#bytes > FEED_BYTES_MAX && !this.#stopped) await this.#changed();
  }

  end(error: unknown): void {
    this.#ended = { error };
    this.#wake();
  }

  /** Nobody stores any more: what is added is dropped. */
  stopTaking(): void {
    this.#stopped = true;
    this.#pieces.length = 0;
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    for (;;) {
      const piece = this.#pieces.shift();
      if (piece !== undefined) {
        this.#bytes -= piece.byteLength;
        this.#wake();
        yield piece;
      } else if (this.#ended !== undefined) {
        if (this.#ended.error !== undefined) throw this.#ended.error;
        return;
      } else {
        await this.#changed();
      }
    }
  }

  /** One waiter at a time: either the feed is full or it is empty. */
  #changed(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}
