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
const NO_BYTES = new Uint8Array(0);
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
  /** Chunks that were so encoded before, by digest: `read` is asked for one that is not kept. */
  readonly kept?: KeptItems | undefined;
  readonly onFailed?: ((error: unknown) => void) | undefined;
}

export interface KeptItems {
  peek(digest: Digest): EncodedItem | undefined;
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
    const item = kept?.peek(digest);
    if (item !== undefined) return { status: "done", item };
    const read = async () => encoded(await store.chunks.get({ digest }), encoding);
    return attempt(kept === undefined ? read : () => kept.get(digest, read));
  };
  const readPart = (range: BlobRange) =>
    attempt(async () => encoded(await readRange(store, range, { signal }), encoding));
  const underWay: (Part | Promise<Part>)[] = [];
  const readNext = (next: number): void => {
    const [digest, range] = [chunks[next], ranges[next - chunks.length]];
    const part = digest !== undefined ? readChunk(digest) : range && readPart(range);
    if (part === undefined) return;
    if (part instanceof Promise) part.catch(() => {});
    underWay.push(part);
  };
  // One loop, which waits only for what is not kept: of 5,000 small items, each generator around it
  // would take as long as all else.
  const count = chunks.length + ranges.length;
  for (let index = 0, next = 0; index < count; index++) {
    // Ranges one by one: each may be as long as the whole answer.
    const ahead = next < chunks.length ? READ_AHEAD : 1;
    while (next < count && underWay.length < ahead) readNext(next++);
    const first = underWay.shift();
    const part = first instanceof Promise ? await first : first;
    signal?.throwIfAborted();
    if (part?.status === "done" && (part.item.size <= room || room === FETCH_ANSWER_BYTES_MAX)) {
      room -= part.item.size;
      const { frames } = part.item;
      for (let i = 0; i < frames.length; i++) {
        const frame = frames[i];
        if (frame === undefined) break;
        yield { index, status: i + 1 < frames.length ? "more" : "done", ...frame };
      }
      continue;
    }
    if (part?.status === "done") room = 0;
    const status = part === undefined || part.status === "done" ? "leftOut" : part.status;
    yield { index, status, encoding: "none", bytes: NO_BYTES };
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
