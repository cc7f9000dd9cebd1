import {
  type BlobRange,
  type CallOptions,
  type Digest,
  FETCH_FRAME_BYTES_MAX,
  type FetchFrame,
  type FetchRequest,
  type LocalStore,
  zstdCompress,
} from "@castore/castore";

/** Bytes asked for in one request that are answered; one item may be larger. */
export const FETCH_ANSWER_BYTES_MAX = 8 * 1024 * 1024;
/** Items read ahead of the one that is sent: at 512 KiB a chunk, 4 MiB. */
const READ_AHEAD = 8;
/** Compression that saves less than one part in this is not worth the client's time. */
const GAIN_MIN = 16;

/** An item as it goes out: its contents cut into frames. */
export interface EncodedItem {
  /** Bytes of the contents. */
  readonly size: number;
  readonly frames: readonly Pick<FetchFrame, "encoding" | "bytes">[];
}

/** An item as it was read, or why it was not. */
type Part =
  | { readonly status: "done"; readonly item: EncodedItem }
  | { readonly status: "missing" | "failed" | "leftOut" };

export interface FetchOptions extends CallOptions {
  /** none: frames hold the contents as they are; zstd: compressed where that is smaller. */
  readonly encoding?: FetchFrame["encoding"] | undefined;
  /** Chunks that were encoded before: `read` is asked for one that is not kept. */
  readonly kept?: KeptItems | undefined;
  readonly onFailed?: ((error: unknown) => void) | undefined;
}

export interface KeptItems {
  peek(key: string): EncodedItem | undefined;
  get(key: string, read: () => Promise<EncodedItem | undefined>): Promise<EncodedItem | undefined>;
}

/**
 * The frames that answer `request`, in order. What goes beyond FETCH_ANSWER_BYTES_MAX is left out
 * and said to be; an item that cannot be read fails alone, and `onFailed` is told why.
 */
export async function* fetchFrames(
  { chunks, ranges }: FetchRequest,
  store: LocalStore,
  options: FetchOptions = {},
): AsyncGenerator<FetchFrame, void, undefined> {
  const { encoding = "zstd", kept, onFailed, signal } = options;
  let room = FETCH_ANSWER_BYTES_MAX;
  const attempt = async (read: () => Promise<EncodedItem | undefined>): Promise<Part> => {
    if (room <= 0) return { status: "leftOut" };
    try {
      const item = await read();
      return item === undefined ? { status: "missing" } : { status: "done", item };
    } catch (error) {
      signal?.throwIfAborted();
      onFailed?.(error);
      return { status: "failed" };
    }
  };
  const readChunk = (digest: Digest): Part | Promise<Part> => {
    const key = `${encoding} ${digest}`;
    const item = kept?.peek(key);
    if (item !== undefined) return { status: "done", item };
    const read = async () => encoded(await store.chunks.get({ digest }), encoding);
    return attempt(kept === undefined ? read : () => kept.get(key, read));
  };
  const readPart = (range: BlobRange) =>
    attempt(async () => encoded(await readRange(store, range, { signal }), encoding));
  let index = 0;
  async function* frames(parts: AsyncIterable<Part>) {
    for await (const part of parts) {
      const size = part.status === "done" ? part.item.size : 0;
      const fits = size <= room || room === FETCH_ANSWER_BYTES_MAX;
      yield* framesOf(index++, fits ? part : { status: "leftOut" });
      room = fits ? room - size : 0;
    }
  }
  yield* frames(readAhead(chunks, READ_AHEAD, readChunk, { signal }));
  // One by one: each may be as long as the whole answer.
  yield* frames(readAhead(ranges, 1, readPart, { signal }));
}

/**
 * As inParallel, for reads that never reject but where `signal` ends, most of which are done at
 * once: of 5,000 small items, waiting for each takes most of the time.
 */
async function* readAhead<T>(
  items: readonly T[],
  limit: number,
  read: (item: T) => Part | Promise<Part>,
  { signal }: CallOptions,
): AsyncGenerator<Part, void, undefined> {
  const underWay: (Part | Promise<Part>)[] = [];
  let next = 0;
  while (next < items.length || underWay.length > 0) {
    const item = items[next];
    if (item !== undefined && underWay.length < limit) {
      const part = read(item);
      if (part instanceof Promise) part.catch(() => {});
      underWay.push(part);
      next++;
      continue;
    }
    const first = underWay.shift();
    signal?.throwIfAborted();
    if (first !== undefined) yield first instanceof Promise ? await first : first;
  }
}

function encoded(
  bytes: Uint8Array | undefined,
  encoding: FetchFrame["encoding"],
): EncodedItem | undefined {
  if (bytes === undefined) return undefined;
  const frames: EncodedItem["frames"][number][] = [];
  let at = 0;
  do {
    const piece = bytes.subarray(at, at + FETCH_FRAME_BYTES_MAX);
    at += piece.byteLength;
    const smaller = encoding === "zstd" ? compressed(piece) : undefined;
    frames.push(
      smaller === undefined
        ? { encoding: "none", bytes: piece }
        : { encoding: "zstd", bytes: smaller },
    );
  } while (at < bytes.byteLength);
  return { size: bytes.byteLength, frames };
}

function compressed(piece: Uint8Array): Uint8Array | undefined {
  const frame = zstdCompress(piece);
  return frame.byteLength < piece.byteLength - piece.byteLength / GAIN_MIN ? frame : undefined;
}

function* framesOf(index: number, part: Part): Generator<FetchFrame, void, undefined> {
  if (part.status !== "done") {
    yield { index, status: part.status, encoding: "none", bytes: new Uint8Array(0) };
    return;
  }
  const { frames } = part.item;
  for (const [i, frame] of frames.entries()) {
    yield { index, status: i < frames.length - 1 ? "more" : "done", ...frame };
  }
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
