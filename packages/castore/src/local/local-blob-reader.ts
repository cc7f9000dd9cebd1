import { closeSync, fstatSync, openSync, read, readSync } from "node:fs";
import { CastoreError } from "../castore-error.ts";
import { createDigestHasher, type Digest, digestOf } from "../model/digest.ts";
import type { BlobReader } from "../services/blob-service.ts";
import { createBytesReader } from "../services/memory-blob-service.ts";
import { clipRange } from "../streams/byte-range.ts";
import { storeError } from "./store-error.ts";

/** Bytes read at once, and ahead. */
const PIECE_BYTES = 1 << 19;
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
  path: string,
  digest: Digest,
  size: number,
): Promise<BlobReader> {
  if (size <= SMALL_FILE_BYTES_MAX) {
    return createBytesReader(digest, readSmallFile(path, digest, size));
  }
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
  return new FileReader({ path, fd, digest, size });
}

function readSmallFile(path: string, digest: Digest, size: number): Uint8Array {
  // One byte more, so that a file that has grown shows.
  const bytes = Buffer.allocUnsafeSlow(size + 1);
  let got = 0;
  try {
    const fd = openSync(path, "r");
    try {
      for (let read = -1; read !== 0 && got < bytes.byteLength; got += read) {
        read = readSync(fd, bytes, got, bytes.byteLength - got, got);
      }
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
  checkDigest(path, digest, digestOf(contents));
  return contents;
}

function checkDigest(path: string, digest: Digest, found: Digest): void {
  if (found === digest) return;
  throw new CastoreError("CORRUPT", `blob ${digest}: ${path} has the digest ${found}`);
}

function openError(path: string, digest: Digest, cause: unknown): unknown {
  if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") {
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

interface OpenBlobFile {
  readonly path: string;
  readonly fd: number;
  readonly digest: Digest;
  readonly size: number;
}

class FileReader implements BlobReader {
  readonly size: number;
  readonly #path: string;
  readonly #fd: number;
  readonly #digest: Digest;
  /** Reads under way: the descriptor must stay theirs until they end. */
  readonly #reads = new Set<Promise<number>>();
  #closed: Promise<void> | undefined;

  constructor({ path, fd, digest, size }: OpenBlobFile) {
    this.#path = path;
    this.#fd = fd;
    this.#digest = digest;
    this.size = size;
  }

  async *stream(
    start?: number,
    end?: number,
    { signal }: { readonly signal?: AbortSignal | undefined } = {},
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const range = clipRange(this.size, start, end);
    const isWhole = range.start === 0 && range.end === this.size;
    const hasher = isWhole ? createDigestHasher() : undefined;
    let next = range.start < range.end ? this.#read(range.start, range.end) : undefined;
    for (let from = range.start; next !== undefined; ) {
      signal?.throwIfAborted();
      const piece = await next;
      signal?.throwIfAborted();
      from += piece.byteLength;
      next = from < range.end ? this.#read(from, range.end) : undefined;
      // Read ahead; a failure shows when its turn comes, or not at all where nobody asks.
      next?.catch(() => {});
      hasher?.update(piece);
      if (next === undefined && hasher !== undefined) {
        checkDigest(this.#path, this.#digest, hasher.digest());
      }
      yield piece;
    }
  }

  async #read(from: number, end: number): Promise<Uint8Array> {
    const piece = Buffer.allocUnsafeSlow(Math.min(PIECE_BYTES, end - from));
    let got = 0;
    while (got < piece.byteLength) {
      const bytesRead = await this.#readInto(piece.subarray(got), from + got);
      if (bytesRead === 0) {
        const message = `blob ${this.#digest}: its file ends at ${from + got}, not ${this.size}`;
        throw new CastoreError("CORRUPT", message);
      }
      got += bytesRead;
    }
    return piece;
  }

  async #readInto(buffer: Uint8Array, position: number): Promise<number> {
    if (this.#closed !== undefined) {
      throw new CastoreError("CLOSED", `blob ${this.#digest}: the reader is closed`);
    }
    const reading = new Promise<number>((resolve, reject) => {
      read(this.#fd, buffer, 0, buffer.byteLength, position, (cause, bytesRead) => {
        if (cause === null) resolve(bytesRead);
        else reject(storeError(`blob ${this.#digest}`, cause));
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
