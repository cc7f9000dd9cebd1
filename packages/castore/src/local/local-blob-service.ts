import { stat } from "node:fs/promises";
import { CastoreError } from "../castore-error.ts";
import { type Digest, digestBytes, digestOf } from "../model/digest.ts";
import { analyzeBytes, type BlobAnalysis, createBlobAnalyzer } from "../recipes/blob-analyzer.ts";
import type { NormalForm } from "../recipes/normal-form.ts";
import type {
  BlobReader,
  BlobService,
  ChunkMeta,
  PutBlobOptions,
  PutBlobsOptions,
} from "../services/blob-service.ts";
import { createBytesReader } from "../services/memory-blob-service.ts";
import type { ByteSource, CallOptions } from "../streams/byte-source.ts";
import { cancellable } from "../streams/cancellable.ts";
import { type BlobRow, decodeBlobRow, INLINE_BYTES_MAX } from "./blob-row.ts";
import { chunkRowsOf, plainChunks } from "./chunk-rows.ts";
import { openBlobFile } from "./local-blob-reader.ts";
import type { OpenStore } from "./open-store.ts";
import { SLAB_BYTES } from "./slab-pool.ts";
import { peekRow } from "./store-index.ts";
import type { BlobWrite } from "./store-writes.ts";
import { createTemporaryFile, type TemporaryFile } from "./temporary-file.ts";

/** Where the bytes of a blob are, as of BlobWrite. */
type BlobBytes = Pick<BlobWrite, "contents" | "temporary">;

/** What a put holds in memory before it goes to the disk, at most. */
const GATHER_BYTES = 1 << 18;

/** The blobs of `store`; `put` indexes the chunks of the normal form `form`. */
export function createLocalBlobService(store: OpenStore, form: NormalForm): BlobService {
  return new LocalBlobService(store, form);
}

class LocalBlobService implements BlobService {
  readonly #store: OpenStore;
  readonly #form: NormalForm;

  constructor(store: OpenStore, form: NormalForm) {
    this.#store = store;
    this.#form = form;
  }

  async has(digest: Digest, { signal }: CallOptions = {}): Promise<boolean> {
    signal?.throwIfAborted();
    return !this.#store.damaged.has(digest) && this.#store.sees("blobs", digest);
  }

  async open(digest: Digest, { signal }: CallOptions = {}): Promise<BlobReader | undefined> {
    signal?.throwIfAborted();
    const row = readBlobRow(this.#store, digest);
    if (row === undefined || !(await this.#store.sees("blobs", digest))) return undefined;
    if (row.inline !== undefined) return createBytesReader(digest, soundInline(digest, row.inline));
    return openBlobFile(this.#store, digest, row.size);
  }

  async chunks(
    digest: Digest,
    { signal }: CallOptions = {},
  ): Promise<readonly ChunkMeta[] | undefined> {
    signal?.throwIfAborted();
    if (!(await this.#store.sees("blobs", digest))) return undefined;
    return plainChunks(this.#store.index, digest);
  }

  async put(source: ByteSource, options: PutBlobOptions = {}): Promise<ChunkMeta> {
    this.#store.checkWritable();
    options.signal?.throwIfAborted();
    using _lease = this.#store.leases.hold();
    const bytes = bytesOf(source);
    if (bytes === undefined) return await this.#putPieces(source, options);
    const analysis = analyzeBytes(this.#form, bytes);
    checkDigest(analysis, options.expect);
    await this.#putInMemory([analysis], [bytes], () => options.release?.(bytes));
    return chunkOf(analysis);
  }

  async putAll(
    blobs: readonly Uint8Array[],
    { signal, release }: PutBlobsOptions = {},
  ): Promise<readonly ChunkMeta[]> {
    this.#store.checkWritable();
    signal?.throwIfAborted();
    using _lease = this.#store.leases.hold();
    if (blobs.some((bytes) => bytes.byteLength > SLAB_BYTES)) {
      const put = await Promise.all(blobs.map((bytes) => this.put([bytes], { signal })));
      release?.();
      return put;
    }
    const analyses = blobs.map((bytes) => analyzeBytes(this.#form, bytes));
    await this.#putInMemory(analyses, blobs, release);
    return analyses.map(chunkOf);
  }

  /** Without all that a stream of pieces needs: a tree may have a hundred thousand small files. */
  async #putInMemory(
    analyses: readonly BlobAnalysis[],
    blobs: readonly Uint8Array[],
    release: PutBlobsOptions["release"],
  ): Promise<void> {
    const isKept = analyses.some((analysis) => this.#isKnown(analysis))
      ? await Promise.all(analyses.map((analysis) => this.#keepAgain(analysis)))
      : [];
    const writes = analyses.flatMap((analysis, i) =>
      isKept[i] ? [] : blobWrite(analysis, { contents: blobs[i] }),
    );
    const written = this.#store.writeAll(writes);
    release?.();
    await written;
    for (const { digest } of analyses) this.#store.damaged.delete(digest);
  }

  async #putPieces(source: ByteSource, options: PutBlobOptions): Promise<ChunkMeta> {
    const spool = new Spool(this.#store, options.expect);
    const released = new ReleasedPieces(options.release);
    try {
      const analyzer = createBlobAnalyzer(this.#form);
      for await (const piece of cancellable(source, options.signal)) {
        analyzer.push(piece);
        await spool.push(piece);
        released.add(piece);
        released.upTo(Math.min(analyzer.analyzedBytes, spool.writtenBytes));
      }
      const analysis = analyzer.finish();
      checkDigest(analysis, options.expect);
      // From here on it is soon done: a signal does not leave it half done.
      options.signal?.throwIfAborted();
      if (await this.#keepAgain(analysis)) return chunkOf(analysis);
      await this.#store.write(blobWrite(analysis, await spool.end(analysis.digest)));
      this.#store.damaged.delete(analysis.digest);
      return chunkOf(analysis);
    } finally {
      await spool.discard();
      released.upTo(Number.POSITIVE_INFINITY);
    }
  }

  /** Whether the blob may be there as a file; a row is written as fast as it is looked at. */
  #isKnown({ digest, size }: BlobAnalysis): boolean {
    return size > INLINE_BYTES_MAX && readBlobRow(this.#store, digest) !== undefined;
  }

  /** Adds the chunks of this form to a blob that is there; false where it must be put. */
  async #keepAgain(analysis: BlobAnalysis): Promise<boolean> {
    if (!this.#isKnown(analysis) || !(await isSound(this.#store, analysis.digest))) return false;
    const digest = digestBytes(analysis.digest);
    const chunks = chunkRowsOf(analysis);
    return this.#store.write({ type: "see", rows: "blobs", digest, chunks });
  }
}

function blobWrite(analysis: BlobAnalysis, bytes: BlobBytes): BlobWrite {
  const { digest, size } = analysis;
  const chunks = chunkRowsOf(analysis);
  return { type: "blob", digest: digestBytes(digest), size, chunks, ...bytes };
}

/** The bytes of a source that are in memory, and few; undefined for another. */
function bytesOf(source: ByteSource): Uint8Array | undefined {
  if (!Array.isArray(source) || source.length !== 1) return undefined;
  const bytes: Uint8Array = source[0];
  return bytes.byteLength <= SLAB_BYTES ? bytes : undefined;
}

function checkDigest({ digest }: BlobAnalysis, expect: Digest | undefined): void {
  if (expect === undefined || digest === expect) return;
  throw new CastoreError("CORRUPT", `blob ${expect}: the bytes have digest ${digest}`);
}

function chunkOf({ digest, size }: BlobAnalysis): ChunkMeta {
  return { digest, size };
}

/**
 * The normal form `form` of a stored blob; its chunks are found in the index from then on.
 * Undefined where the blob is absent. Rejects CORRUPT where its bytes are not its digest's.
 */
export async function analyzeLocalBlob(
  store: OpenStore,
  form: NormalForm,
  digest: Digest,
  options: CallOptions = {},
): Promise<BlobAnalysis | undefined> {
  const reader = await createLocalBlobService(store, form).open(digest, options);
  if (reader === undefined) return undefined;
  const analyzer = createBlobAnalyzer(form);
  const gathered: Uint8Array[] = [];
  try {
    for await (const piece of reader.stream(0, undefined, options)) {
      analyzer.push(piece);
      if (reader.size <= INLINE_BYTES_MAX) gathered.push(piece);
    }
  } finally {
    await reader.close();
  }
  const analysis = analyzer.finish();
  if (analysis.digest !== digest) {
    throw new CastoreError("CORRUPT", `blob ${digest}: the bytes have digest ${analysis.digest}`);
  }
  const chunks = chunkRowsOf(analysis);
  if (chunks !== undefined) {
    const { size } = analysis;
    const contents = size <= INLINE_BYTES_MAX ? Buffer.concat(gathered) : undefined;
    await store.write({ type: "blob", digest: digestBytes(digest), size, chunks, contents });
  }
  return analysis;
}

/** Whether the blob's file is there and not damaged, and saved from a collection under way. */
async function isSound(store: OpenStore, digest: Digest): Promise<boolean> {
  const row = readBlobRow(store, digest);
  if (row === undefined || store.damaged.has(digest)) return false;
  if (!(await store.sees("blobs", digest))) return false;
  const found = await stat(store.layout.blob(digest)).catch(() => undefined);
  return found?.isFile() === true && found.size === row.size;
}

/** Unlike a file, a row is small enough to be verified whenever it is read. */
function soundInline(digest: Digest, bytes: Uint8Array): Uint8Array {
  const found = digestOf(bytes);
  if (found === digest) return bytes;
  throw new CastoreError("CORRUPT", `blob ${digest}: the stored bytes have digest ${found}`);
}

export function readBlobRow(store: OpenStore, digest: Digest): BlobRow | undefined {
  const row = peekRow(store.index.rows.blobs, digestBytes(digest));
  return row === undefined ? undefined : decodeBlobRow(row, digest);
}

/** Gives the pieces of a source back, in order. */
class ReleasedPieces {
  readonly #release: PutBlobOptions["release"];
  readonly #held: { readonly piece: Uint8Array; readonly end: number }[] = [];
  #bytes = 0;

  constructor(release: PutBlobOptions["release"]) {
    this.#release = release;
  }

  add(piece: Uint8Array): void {
    this.#bytes += piece.byteLength;
    if (this.#release !== undefined) this.#held.push({ piece, end: this.#bytes });
  }

  /** Releases what lies within the first `bytes`. */
  upTo(bytes: number): void {
    for (let first = this.#held[0]; first !== undefined && first.end <= bytes; ) {
      this.#held.shift();
      this.#release?.(first.piece);
      first = this.#held[0];
    }
  }
}

/** The bytes of a put on their way: in memory while they are few, then in a temporary file. */
class Spool {
  readonly #store: OpenStore;
  readonly #expect: Digest | undefined;
  #pieces: Uint8Array[] = [];
  #gathered = 0;
  #file: TemporaryFile | undefined;
  #dropped = false;
  #writtenBytes = 0;
  #flushing: Promise<void> = Promise.resolve();

  constructor(store: OpenStore, expect: Digest | undefined) {
    this.#store = store;
    this.#expect = expect;
  }

  async push(piece: Uint8Array): Promise<void> {
    this.#pieces.push(piece);
    this.#gathered += piece.byteLength;
    if (this.#gathered < GATHER_BYTES) return;
    // One write goes on while the next pieces come and are hashed.
    await this.#flushing;
    this.#flushing = this.#flush();
    this.#flushing.catch(() => {});
  }

  /** How many of the first bytes are no longer in memory. */
  get writtenBytes(): number {
    return this.#writtenBytes;
  }

  /** Where the bytes are, once they are all there: in memory, or durably in a file. */
  async end(digest: Digest): Promise<BlobBytes> {
    await this.#flushing;
    if (this.#file === undefined && !this.#dropped) {
      return { contents: Buffer.concat(this.#pieces, this.#gathered) };
    }
    await this.#flush();
    if (this.#file === undefined) {
      throw new CastoreError("UNAVAILABLE", `blob ${digest}: it vanished while it was put again`);
    }
    return { temporary: await this.#file.seal() };
  }

  async discard(): Promise<void> {
    await this.#flushing.catch(() => {});
    this.#pieces = [];
    await this.#file?.discard();
  }

  async #flush(): Promise<void> {
    const pieces = this.#pieces;
    const bytes = this.#gathered;
    this.#pieces = [];
    this.#gathered = 0;
    if (this.#file === undefined && !this.#dropped) {
      // Bytes that are there already are only to be hashed.
      this.#dropped = this.#expect !== undefined && (await isSound(this.#store, this.#expect));
      if (!this.#dropped) this.#file = await createTemporaryFile(this.#store);
    }
    await this.#file?.write(pieces);
    this.#writtenBytes += bytes;
  }
}
