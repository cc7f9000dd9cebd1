import { CastoreError } from "../castore-error.ts";
import { createDigestHasher, type Digest, digestOf } from "../model/digest.ts";
import type { BlobReader, ChunkMeta } from "../services/blob-service.ts";
import { clipRange } from "../streams/byte-range.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import { checkChunk } from "./chunked-reader.ts";

/** Reads a whole blob from the start, unchecked, always cut in the same places. */
export type ReadPieces = (options: CallOptions) => AsyncIterable<Uint8Array>;

/**
 * A blob that a store gives only as one stream. The first read of the whole lets the last piece go
 * once the digest of all was right, and notes the digests of the pieces, by which later reads are
 * checked; any other read before that reads the whole first, as does opening it where the store
 * does not say its size.
 */
export async function openStreamedBlob(
  digest: Digest,
  claimedSize: number | undefined,
  read: ReadPieces,
  options: CallOptions,
): Promise<BlobReader> {
  let proven: readonly ChunkMeta[] | undefined;
  const prove = async function* (size: number | undefined, call: CallOptions) {
    proven = yield* proving(digest, size, read(call));
  };
  const proveOnly = async (call: CallOptions): Promise<void> => {
    for await (const _ of prove(claimedSize, call));
  };
  if (claimedSize === undefined) await proveOnly(options);
  const size = claimedSize ?? (proven ?? []).reduce((sum, piece) => sum + piece.size, 0);
  let closed = false;
  const close = async (): Promise<void> => {
    closed = true;
  };
  const checkOpen = (): void => {
    if (closed) throw new CastoreError("CLOSED", `blob ${digest}: the reader is closed`);
  };
  return {
    size,
    async *stream(start, end, call = {}) {
      const range = clipRange(size, start, end);
      checkOpen();
      if (proven === undefined && range.start === 0 && range.end === size) {
        for await (const piece of prove(size, call)) {
          yield piece;
          checkOpen();
        }
        return;
      }
      if (range.start === range.end) return;
      if (proven === undefined) await proveOnly(call);
      let at = 0;
      let index = 0;
      for await (const piece of read(call)) {
        checkOpen();
        const known = proven?.[index++];
        if (known === undefined) throw new CastoreError("CORRUPT", `blob ${digest}: has grown`);
        const from = Math.max(0, range.start - at);
        const to = Math.min(piece.byteLength, range.end - at);
        at += piece.byteLength;
        if (from >= piece.byteLength) continue;
        checkChunk(digest, known, piece);
        yield piece.subarray(from, to);
        if (at >= range.end) return;
      }
      throw new CastoreError("CORRUPT", `blob ${digest}: ended after ${at} of ${size} bytes`);
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}

/** The pieces, the last once all were the blob; returns what they are. */
async function* proving(
  digest: Digest,
  size: number | undefined,
  pieces: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, readonly ChunkMeta[], undefined> {
  const hasher = createDigestHasher();
  const metas: ChunkMeta[] = [];
  let read = 0;
  let held: Uint8Array | undefined;
  for await (const piece of pieces) {
    read += piece.byteLength;
    if (size !== undefined && read > size) break;
    hasher.update(piece);
    metas.push({ digest: digestOf(piece), size: piece.byteLength });
    if (held !== undefined) yield held;
    held = piece;
  }
  const got = hasher.digest();
  if (got !== digest || read !== (size ?? read)) {
    const message = `blob ${digest}: got ${read} bytes, want ${size ?? "some"}; digest ${got}`;
    throw new CastoreError("CORRUPT", message);
  }
  if (held !== undefined) yield held;
  return metas;
}
