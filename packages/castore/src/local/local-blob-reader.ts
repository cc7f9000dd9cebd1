import { closeSync, fstatSync, openSync, read } from "node:fs";
import { CastoreError, systemCodeOf } from "../castore-error.ts";
import { readRange } from "../files/read-range.ts";
import { createDigestHasher, type Digest, digestOf } from "../model/digest.ts";
import type { BlobReader, StreamOptions } from "../services/blob-service.ts";
import { createBytesReader } from "../services/memory-blob-service.ts";
import { clipRange } from "../streams/byte-range.ts";
import { type PiecePool, POOLED_PIECE_BYTES } from "../streams/piece-pool.ts";
import type { OpenStore } from "./open-store.ts";
import { storeError } from "./store-error.ts";

/**
 * A file up to this is read at once, in this thread: half the time of four trips to the pool. Of
 * larger ones only reads go there: three trips less for each file.
 */
const SMALL_FILE_BYTES_MAX = 1 << 16;

/**
 * Opens the file of the blob `digest`. Rejects CORRUPT where it is missing or has another size. A
 * read of the whole is verified before its last piece: 0.2 s for each GB. A read of a part is not.
 */
export async function openBlobFile(
  store: OpenStore,
  digest: Digest,
  size: number,
): Promise<BlobReader> {
  const path = store.layout.blob(digest);
  const file: BlobFile = { path, digest, size, onDamage: () => store.damaged.add(digest) };
  if (size <= SMALL_FILE_BYTES_MAX) return createBytesReader(digest, readSmallFile(file));
  const fd = openExisting(path, digest);
  try {
    const { size: found } = fstatSync(fd);
    if (found !== size) {
      throw new CastoreError("CORRUPT", `blob ${digest}: ${path} has ${found} bytes, not ${size}`);
    }
  } catch (error) {
    closeSync(fd);
    throw storeError(`blob ${digest}`, error);
  }
  return new FileReader(file, fd);
}

/** Where the blob `digest` of `size` bytes should be. */
interface BlobFile {
  readonly path: string;
  readonly digest: Digest;
  readonly size: number;
  /** Called where its bytes turn out to be others. */
  readonly onDamage: () => void;
}

function readSmallFile(file: BlobFile): Uint8Array {
  const { path, digest, size } = file;
  // One byte more, so that a file that has grown shows.
  const bytes = Buffer.allocUnsafeSlow(size + 1);
  let got: number;
  try {
    const fd = openSync(path, "r");
    try {
      got = readRange(fd, { start: 0, end: bytes.byteLength, at: 0 }, bytes);
    } finally {
      closeSync(fd);
    }
  } catch (cause) {
    throw openError(path, digest, cause);
  }
  if (got !== size) {
    throw new CastoreError("CORRUPT", `blob ${digest}: ${path} is not of ${size} bytes`);
  }
  const contents = bytes.subarray(0, size);
  checkDigest(file, digestOf(contents));
  return contents;
}

function checkDigest({ path, digest, onDamage }: BlobFile, found: Digest): void {
  if (found === digest) return;
  onDamage();
  const remedy = "castore fsck --repair takes it away";
  throw new CastoreError("CORRUPT", `blob ${digest}: ${path} has the digest ${found}; ${remedy}`);
}

function openError(path: string, digest: Digest, cause: unknown): unknown {
  if (systemCodeOf(cause) === "ENOENT") {
    return new CastoreError("CORRUPT", `blob ${digest}: ${path} is missing`, { cause });
  }
  return storeError(`blob ${digest}`, cause);
}

function openExisting(path: string, digest: Digest): number {
  try {
    return openSync(path, "r");
  } catch (cause) {
    throw openError(path, digest, cause);
  }
}

class FileReader implements BlobReader {
  readonly size: number;
  readonly #file: BlobFile;
  readonly #fd: number;
  /** Reads under way: the descriptor must stay theirs until they end. */
  readonly #reads = new Set<Promise<number>>();
  #closed: Promise<void> | undefined;

  constructor(file: BlobFile, fd: number) {
    this.#file = file;
    this.#fd = fd;
    this.size = file.size;
  }

  async *stream(
    start?: number,
    end?: number,
    { signal, pool }: StreamOptions = {},
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const range = clipRange(this.size, start, end);
    const isWhole = range.start === 0 && range.end === this.size;
    const hasher = isWhole ? createDigestHasher() : undefined;
    let next = range.start < range.end ? this.#read(range.start, range.end, pool) : undefined;
    for (let from = range.start; next !== undefined; ) {
      signal?.throwIfAborted();
      const piece = await next;
      signal?.throwIfAborted();
      from += piece.byteLength;
      next = from < range.end ? this.#read(from, range.end, pool) : undefined;
      // Read ahead; a failure shows when its turn comes, or not at all where nobody asks.
      next?.catch(() => {});
      hasher?.update(piece);
      if (next === undefined && hasher !== undefined) {
        checkDigest(this.#file, hasher.digest());
      }
      yield piece;
    }
  }

  async #read(from: number, end: number, pool: PiecePool | undefined): Promise<Uint8Array> {
    const size = Math.min(POOLED_PIECE_BYTES, end - from);
    const piece = pool?.take(size) ?? Buffer.allocUnsafeSlow(size);
    let got = 0;
    while (got < piece.byteLength) {
      const bytesRead = await this.#readInto(piece.subarray(got), from + got);
      if (bytesRead === 0) {
        const sizes = `ends at ${from + got}, not ${this.size}`;
        throw new CastoreError("CORRUPT", `blob ${this.#file.digest}: its file ${sizes}`);
      }
      got += bytesRead;
    }
    return piece;
  }

  async #readInto(buffer: Uint8Array, position: number): Promise<number> {
    if (this.#closed !== undefined) {
      throw new CastoreError("CLOSED", `blob ${this.#file.digest}: the reader is closed`);
    }
    const reading = new Promise<number>((resolve, reject) => {
      read(this.#fd, buffer, 0, buffer.byteLength, position, (cause, bytesRead) => {
        if (cause === null) resolve(bytesRead);
        else reject(storeError(`blob ${this.#file.digest}`, cause));
      });
    });
    this.#reads.add(reading);
    try {
      return await reading;
    } finally {
      this.#reads.delete(reading);
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    await Promise.allSettled(this.#reads);
    closeSync(this.#fd);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
