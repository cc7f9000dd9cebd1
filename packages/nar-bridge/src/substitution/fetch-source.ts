import {
  type BlobRange,
  type CallOptions,
  type Digest,
  FETCH_FRAME_BYTES_MAX,
  type FetchFrame,
  type FetchRequest,
  inParallel,
  type LocalStore,
  zstdCompress,
} from "@castore/castore";

/** Bytes asked for in one request that are answered; one item may be larger. */
export const FETCH_ANSWER_BYTES_MAX = 8 * 1024 * 1024;
/** Items read ahead of the one that is sent: at 512 KiB a chunk, 4 MiB. */
const READ_AHEAD = 8;
/** Compression that saves less than one part in this is not worth the client's time. */
const GAIN_MIN = 16;

/** An item as it was read, or why it was not. */
type Part =
  | { readonly status: "done"; readonly bytes: Uint8Array }
  | { readonly status: "missing" | "failed" | "leftOut" };

/**
 * The frames that answer `request`, in order. What goes beyond FETCH_ANSWER_BYTES_MAX is left out
 * and said to be; an item that cannot be read fails alone, and `onFailed` is told why.
 */
export async function* fetchFrames(
  { chunks, ranges }: FetchRequest,
  store: LocalStore,
  options: FetchOptions = {},
): AsyncGenerator<FetchFrame, void, undefined> {
  let room = FETCH_ANSWER_BYTES_MAX;
  const attempt = async (read: () => Promise<Uint8Array | undefined>): Promise<Part> => {
    if (room <= 0) return { status: "leftOut" };
    try {
      const bytes = await read();
      return bytes === undefined ? { status: "missing" } : { status: "done", bytes };
    } catch (error) {
      options.signal?.throwIfAborted();
      options.onFailed?.(error);
      return { status: "failed" };
    }
  };
  const readChunk = (digest: Digest, signal: AbortSignal) =>
    attempt(async () => await store.chunks.get({ digest }, { signal }));
  const readPart = (range: BlobRange, signal: AbortSignal) =>
    attempt(async () => await readRange(store, range, { signal }));
  let index = 0;
  async function* frames(parts: AsyncIterable<Part>) {
    for await (const part of parts) {
      const size = part.status === "done" ? part.bytes.byteLength : 0;
      const fits = size <= room || room === FETCH_ANSWER_BYTES_MAX;
      yield* framesOf(index++, fits ? part : { status: "leftOut" });
      room = fits ? room - size : 0;
    }
  }
  yield* frames(inParallel(chunks, READ_AHEAD, readChunk, options));
  // One by one: each may be as long as the whole answer.
  yield* frames(inParallel(ranges, 1, readPart, options));
}

export interface FetchOptions extends CallOptions {
  readonly onFailed?: ((error: unknown) => void) | undefined;
}

function* framesOf(index: number, part: Part): Generator<FetchFrame, void, undefined> {
  if (part.status !== "done") {
    yield { index, status: part.status, encoding: "none", bytes: new Uint8Array(0) };
    return;
  }
  const { bytes } = part;
  let at = 0;
  do {
    const piece = bytes.subarray(at, at + FETCH_FRAME_BYTES_MAX);
    at += piece.byteLength;
    const status = at < bytes.byteLength ? "more" : "done";
    const compressed = zstdCompress(piece);
    const isSmaller = compressed.byteLength < piece.byteLength - piece.byteLength / GAIN_MIN;
    if (isSmaller) yield { index, status, encoding: "zstd", bytes: compressed };
    else yield { index, status, encoding: "none", bytes: piece };
  } while (at < bytes.byteLength);
}

async function readRange(
  store: LocalStore,
  { digest, start, end }: BlobRange,
  options: CallOptions,
): Promise<Uint8Array | undefined> {
  const reader = await store.blobs.open(digest, options);
  if (reader === undefined) return undefined;
  try {
    const pieces: Uint8Array[] = [];
    const stop = Math.min(end, start + FETCH_ANSWER_BYTES_MAX);
    for await (const piece of reader.stream(start, stop, options)) pieces.push(piece);
    return Buffer.concat(pieces);
  } finally {
    await reader.close();
  }
}
