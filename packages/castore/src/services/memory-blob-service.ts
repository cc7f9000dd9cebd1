import { CastoreError } from "../castore-error.ts";
import { type Digest, digestOf } from "../model/digest.ts";
import { clipRange } from "../streams/byte-range.ts";
import { cancellable } from "../streams/cancellable.ts";
import type { BlobReader, BlobService } from "./blob-service.ts";

const PIECE_BYTES_MAX = 1 << 20;

export interface MemoryBlobServiceOptions {
  /** Most bytes held in all; beyond, `put` rejects EXHAUSTED. */
  readonly bytesMax?: number;
}

/** Blobs in memory, for tests and small stores. Does not chunk. */
export function createMemoryBlobService(options: MemoryBlobServiceOptions = {}): BlobService {
  const bytesMax = options.bytesMax ?? Number.POSITIVE_INFINITY;
  const blobs = new Map<Digest, Uint8Array>();
  let held = 0;
  return {
    async has(digest, { signal } = {}) {
      signal?.throwIfAborted();
      return blobs.has(digest);
    },
    async open(digest, { signal } = {}) {
      signal?.throwIfAborted();
      const bytes = blobs.get(digest);
      return bytes === undefined ? undefined : createBytesReader(digest, bytes);
    },
    async put(source, { expect, signal } = {}) {
      const pieces: Uint8Array[] = [];
      let size = 0;
      for await (const piece of cancellable(source, signal)) {
        size += piece.byteLength;
        if (held + size > bytesMax) {
          throw new CastoreError("EXHAUSTED", `blobs in memory: the limit is ${bytesMax} bytes`);
        }
        pieces.push(piece);
      }
      const bytes = Buffer.concat(pieces, size);
      const digest = digestOf(bytes);
      if (expect !== undefined && digest !== expect) {
        throw new CastoreError("CORRUPT", `blob ${expect}: the bytes have digest ${digest}`);
      }
      if (!blobs.has(digest)) {
        blobs.set(digest, bytes);
        held += size;
      }
      return { digest, size };
    },
    async chunks(digest, { signal } = {}) {
      signal?.throwIfAborted();
      return blobs.has(digest) ? [] : undefined;
    },
  };
}

/** A reader of `bytes`, which are the blob `digest` and must not change. */
export function createBytesReader(digest: Digest, bytes: Uint8Array): BlobReader {
  let closed = false;
  const close = async (): Promise<void> => {
    closed = true;
  };
  return {
    size: bytes.byteLength,
    contents: bytes,
    async *stream(start, end, { signal } = {}) {
      const range = clipRange(bytes.byteLength, start, end);
      for (let from = range.start; from < range.end; from += PIECE_BYTES_MAX) {
        signal?.throwIfAborted();
        if (closed) throw new CastoreError("CLOSED", `blob ${digest}: the reader is closed`);
        // Copied, as pieces become the receiver's; a Buffer's own slice() would not copy.
        yield new Uint8Array(bytes.subarray(from, Math.min(from + PIECE_BYTES_MAX, range.end)));
      }
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}
