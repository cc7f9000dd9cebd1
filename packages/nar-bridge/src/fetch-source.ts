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

interface Part {
  readonly index: number;
  readonly bytes: Uint8Array | undefined;
}

/**
 * The frames that answer `request`, in order. What goes beyond FETCH_ANSWER_BYTES_MAX is left out
 * and said to be.
 */
export async function* fetchFrames(
  { chunks, ranges }: FetchRequest,
  store: LocalStore,
  options: CallOptions = {},
): AsyncGenerator<FetchFrame, void, undefined> {
  const items: (Digest | BlobRange)[] = [...chunks, ...ranges];
  const read = async (item: Digest | BlobRange, signal: AbortSignal) =>
    typeof item === "string"
      ? await store.chunks.get({ digest: item }, { signal })
      : await readRange(store, item, { signal });
  let sent = 0;
  let index = 0;
  for await (const bytes of inParallel(items, READ_AHEAD, read, options)) {
    yield* framesOf({ index, bytes }, sent);
    sent += bytes?.byteLength ?? 0;
    index++;
  }
}

function* framesOf({ index, bytes }: Part, sent: number): Generator<FetchFrame, void, undefined> {
  const none = new Uint8Array(0);
  if (bytes === undefined) {
    yield { index, status: "missing", encoding: "none", bytes: none };
    return;
  }
  if (sent > 0 && sent + bytes.byteLength > FETCH_ANSWER_BYTES_MAX) {
    yield { index, status: "leftOut", encoding: "none", bytes: none };
    return;
  }
  let at = 0;
  do {
    const part = bytes.subarray(at, at + FETCH_FRAME_BYTES_MAX);
    at += part.byteLength;
    const status = at < bytes.byteLength ? "more" : "done";
    const compressed = zstdCompress(part);
    const isSmaller = compressed.byteLength < part.byteLength - part.byteLength / GAIN_MIN;
    if (isSmaller) yield { index, status, encoding: "zstd", bytes: compressed };
    else yield { index, status, encoding: "none", bytes: part };
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
