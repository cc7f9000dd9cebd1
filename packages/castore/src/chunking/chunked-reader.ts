import { CastoreError } from "../castore-error.ts";
import { createDigestHasher, type Digest, digestOf } from "../model/digest.ts";
import type { BlobReader, ChunkMeta } from "../services/blob-service.ts";
import type { ChunkList } from "../services/chunk-lists.ts";
import { ByteQueue } from "../streams/byte-queue.ts";
import { clipRange } from "../streams/byte-range.ts";
import type { CallOptions } from "../streams/byte-source.ts";

/** Most bytes in a piece that a reader yields. */
export const PIECE_BYTES_MAX = 1 << 20;

/** How many chunks a reader fetches at once, and how many bytes of them it may hold. */
const CHUNKS_AHEAD = 8;
const BYTES_AHEAD = 4 << 20;

/** Fetches the bytes of a chunk, unchecked; undefined where it is missing. */
export type FetchChunk = (
  chunk: ChunkMeta,
  options: CallOptions,
) => Promise<Uint8Array | undefined>;

/** Fetches the whole blob, unchecked, in pieces of any size. */
export type FetchWhole = (options: CallOptions) => AsyncIterable<Uint8Array>;

/**
 * A reader of the blob `digest` out of its chunks. Each chunk is checked against its digest. The
 * list itself counts as proven once all of the blob was seen to have the blob's digest: a read of
 * the whole checks that before it lets the last piece go, and any other read of a list that is not
 * proven reads the whole first. The whole is read by `fetchWhole` where there is one.
 */
export function createChunkedReader(
  digest: Digest,
  list: ChunkList,
  fetch: FetchChunk,
  fetchWhole?: FetchWhole,
): BlobReader {
  let closed = false;
  const close = async (): Promise<void> => {
    closed = true;
  };
  const checkOpen = (): void => {
    if (closed) throw new CastoreError("CLOSED", `blob ${digest}: the reader is closed`);
  };
  const verified: FetchChunk = async (chunk, options) => {
    checkOpen();
    const bytes = await fetch(chunk, options);
    if (bytes === undefined) {
      throw new CastoreError("INCOMPLETE", `chunk ${chunk.digest} of blob ${digest} is missing`);
    }
    checkChunk(digest, chunk, bytes);
    return bytes;
  };
  const whole = (signal: AbortSignal | undefined): AsyncIterable<Uint8Array> =>
    fetchWhole === undefined
      ? fetchInOrder(list.chunks, verified, signal)
      : cut(digest, list, fetchWhole({ signal }), checkOpen);
  return {
    size: list.size,
    async *stream(start, end, { signal } = {}) {
      const range = clipRange(list.size, start, end);
      const isWhole = range.start === 0 && range.end === list.size;
      if (isWhole && !list.proven) {
        yield* proving(digest, list, whole(signal), signal);
        return;
      }
      if (range.start === range.end) return;
      if (isWhole) {
        for await (const bytes of whole(signal)) yield* piecesOf(bytes);
        return;
      }
      if (!list.proven) {
        for await (const _ of proving(digest, list, whole(signal), signal));
      }
      let position = 0;
      const wanted: ChunkMeta[] = [];
      let first = 0;
      for (const chunk of list.chunks) {
        if (position < range.end && position + chunk.size > range.start) {
          if (wanted.length === 0) first = position;
          wanted.push(chunk);
        }
        position += chunk.size;
      }
      let at = first;
      for await (const bytes of fetchInOrder(wanted, verified, signal)) {
        const from = Math.max(0, range.start - at);
        const to = Math.min(bytes.byteLength, range.end - at);
        at += bytes.byteLength;
        yield* piecesOf(bytes.subarray(from, to));
      }
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}

/** Rejects CORRUPT unless `bytes` are the chunk. */
export function checkChunk(blob: Digest, chunk: ChunkMeta, bytes: Uint8Array): void {
  if (bytes.byteLength !== chunk.size) {
    const sizes = `got ${bytes.byteLength} bytes, want ${chunk.size}`;
    throw new CastoreError("CORRUPT", `chunk ${chunk.digest} of blob ${blob}: ${sizes}`);
  }
  const got = digestOf(bytes);
  if (got !== chunk.digest) {
    throw new CastoreError("CORRUPT", `chunk ${chunk.digest} of blob ${blob}: has digest ${got}`);
  }
}

/** The pieces of the whole blob; the last one comes once the digest of all was right. */
async function* proving(
  digest: Digest,
  list: ChunkList,
  chunks: AsyncIterable<Uint8Array>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array, void, undefined> {
  const hasher = createDigestHasher();
  let held: Uint8Array | undefined;
  for await (const bytes of chunks) {
    hasher.update(bytes);
    for (const piece of piecesOf(bytes)) {
      if (held !== undefined) yield held;
      signal?.throwIfAborted();
      held = piece;
    }
  }
  const got = hasher.digest();
  if (got !== digest) {
    throw new CastoreError("CORRUPT", `blob ${digest}: its chunks together have digest ${got}`);
  }
  list.proven = true;
  if (held !== undefined) yield held;
}

/** The whole blob's bytes cut where its chunks end, each checked. */
async function* cut(
  digest: Digest,
  list: ChunkList,
  source: AsyncIterable<Uint8Array>,
  checkOpen: () => void,
): AsyncGenerator<Uint8Array, void, undefined> {
  const queue = new ByteQueue();
  let next = 0;
  checkOpen();
  for await (const piece of source) {
    checkOpen();
    queue.push(piece);
    for (let chunk = list.chunks[next]; chunk !== undefined; chunk = list.chunks[next]) {
      const bytes = queue.take(chunk.size);
      if (bytes === undefined) break;
      checkChunk(digest, chunk, bytes);
      next++;
      yield bytes;
    }
    if (next === list.chunks.length && queue.size > 0) break;
  }
  if (next < list.chunks.length || queue.size > 0) {
    throw new CastoreError("CORRUPT", `blob ${digest}: is not of ${list.size} bytes`);
  }
}

function* piecesOf(bytes: Uint8Array): Generator<Uint8Array, void, undefined> {
  for (let from = 0; from < bytes.byteLength; from += PIECE_BYTES_MAX) {
    yield bytes.subarray(from, Math.min(from + PIECE_BYTES_MAX, bytes.byteLength));
  }
}

/** Fetches several chunks at once and yields their bytes in order. */
async function* fetchInOrder(
  chunks: readonly ChunkMeta[],
  fetch: FetchChunk,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array, void, undefined> {
  signal?.throwIfAborted();
  const stop = new AbortController();
  const options = {
    signal: signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]),
  };
  const ahead: { readonly bytes: Promise<Uint8Array | undefined>; readonly size: number }[] = [];
  let held = 0;
  let next = 0;
  try {
    while (true) {
      let chunk = chunks[next];
      while (
        chunk !== undefined &&
        ahead.length < CHUNKS_AHEAD &&
        (ahead.length === 0 || held + chunk.size <= BYTES_AHEAD)
      ) {
        const bytes = fetch(chunk, options);
        bytes.catch(() => {});
        ahead.push({ bytes, size: chunk.size });
        held += chunk.size;
        chunk = chunks[++next];
      }
      const head = ahead.shift();
      if (head === undefined) return;
      const bytes = await head.bytes;
      held -= head.size;
      if (bytes !== undefined) yield bytes;
      signal?.throwIfAborted();
    }
  } finally {
    stop.abort(new CastoreError("CLOSED", "the reader stopped"));
  }
}
