import { CastoreError } from "../castore-error.ts";
import {
  createDigestHasher,
  DIGEST_BYTES,
  type DigestHasher,
  digestBytes,
} from "../model/digest.ts";
import { ByteQueue } from "../streams/byte-queue.ts";
import type { ByteSource } from "../streams/byte-source.ts";
import { zstdDecompress } from "../streams/zstd.ts";

/** Most bytes of contents in one frame; a longer item takes several. */
export const FETCH_FRAME_BYTES_MAX = 1 << 20;

/** What a frame says of its item. */
const STATUSES = { done: 0, more: 1, missing: 2, failed: 3, leftOut: 4 } as const;
const STATUS_NAMES = ["done", "more", "missing", "failed", "leftOut"] as const;
const STATUS_END = 255;
/** Bytes of a frame besides its contents. */
export const FETCH_FRAME_HEADER_BYTES = 10;
/** Bytes of the last frame. */
export const FETCH_END_BYTES = FETCH_FRAME_HEADER_BYTES + DIGEST_BYTES;
/** A frame up to this waits for others, until so many bytes are gathered. */
const SMALL_FRAME_BYTES = 16_384;
const GATHERED_BYTES = 65_536;
/** zstd adds this much at most to what it cannot compress. */
const ENCODED_BYTES_MAX = FETCH_FRAME_BYTES_MAX + 8_192;

/** Part of an answer to a FetchRequest: some bytes of one item, or why there are none. */
export interface FetchFrame {
  /** Of the item in the request. */
  readonly index: number;
  /**
   * done: these bytes complete the item; more: another frame goes on. missing: the server does not
   * have it; failed: it could not read it; leftOut: the answer is full, ask again.
   */
  readonly status: (typeof STATUS_NAMES)[number];
  /** How `bytes` are encoded; each frame by itself. */
  readonly encoding: "none" | "zstd";
  /** None unless the status is done or more. */
  readonly bytes: Uint8Array;
}

/**
 * The bytes of an answer: `frames`, in ascending order of index, and the end that proves them. The
 * pieces belong to the receiver; `bytes` of frames are passed on, not copied.
 */
export async function* encodeFetchAnswer(
  frames: AsyncIterable<FetchFrame> | Iterable<FetchFrame>,
): AsyncGenerator<Uint8Array, void, undefined> {
  const hasher = createDigestHasher();
  // Small frames go out together: each piece costs a system call or a copy later.
  let gathered: Uint8Array[] = [];
  let gatheredBytes = 0;
  let items = 0;
  for await (const { index, status, encoding, bytes } of frames) {
    const header = headerOf(index, STATUSES[status], encoding, bytes.byteLength);
    gathered.push(header);
    gatheredBytes += FETCH_FRAME_HEADER_BYTES;
    const isSmall = bytes.byteLength <= SMALL_FRAME_BYTES;
    if (isSmall) gathered.push(bytes);
    gatheredBytes += isSmall ? bytes.byteLength : 0;
    if (!isSmall || gatheredBytes > GATHERED_BYTES) {
      yield hashed(hasher, Buffer.concat(gathered, gatheredBytes));
      gathered = [];
      gatheredBytes = 0;
    }
    if (!isSmall) yield hashed(hasher, bytes);
    items = index + 1;
  }
  gathered.push(headerOf(items, STATUS_END, "none", DIGEST_BYTES));
  const last = hashed(hasher, Buffer.concat(gathered));
  yield Buffer.concat([last, digestBytes(hasher.digest())]);
}

function hashed(hasher: DigestHasher, bytes: Uint8Array): Uint8Array {
  hasher.update(bytes);
  return bytes;
}

function headerOf(
  index: number,
  status: number,
  encoding: FetchFrame["encoding"],
  length: number,
): Buffer {
  const header = Buffer.alloc(FETCH_FRAME_HEADER_BYTES);
  header.writeUInt32BE(index, 0);
  header[4] = status;
  header[5] = encoding === "zstd" ? 1 : 0;
  header.writeUInt32BE(length, 6);
  return header;
}

/**
 * The frames of an answer to a request of `items` items, as they arrive: each item in order, and
 * each to its end. Rejects INVALID for what no server may send, CORRUPT where the bytes do not
 * match the answer's own digest, INCOMPLETE where it ends early. Memory: one frame.
 */
export async function* decodeFetchAnswer(
  source: ByteSource,
  items: number,
): AsyncGenerator<FetchFrame, void, undefined> {
  const decoder = new AnswerDecoder(items);
  for await (const piece of source) {
    decoder.push(piece);
    for (let frame = decoder.next(); frame !== undefined; frame = decoder.next()) yield frame;
  }
  decoder.finish();
}

class AnswerDecoder {
  readonly #items: number;
  readonly #queue = new ByteQueue();
  readonly #hasher: DigestHasher = createDigestHasher();
  #header: Buffer | undefined;
  /** The item that the next frame is of. */
  #index = 0;
  #ended = false;

  constructor(items: number) {
    this.#items = items;
  }

  push(piece: Uint8Array): void {
    this.#queue.push(piece);
  }

  next(): FetchFrame | undefined {
    if (this.#ended) {
      if (this.#queue.size > 0) throw invalid("bytes after its end");
      return undefined;
    }
    if (this.#header === undefined) {
      this.#header = this.#queue.take(FETCH_FRAME_HEADER_BYTES);
      if (this.#header === undefined) return undefined;
      this.#checkHeader(this.#header);
      this.#hasher.update(this.#header);
    }
    const header = this.#header;
    const bytes = this.#queue.take(header.readUInt32BE(6));
    if (bytes === undefined) return undefined;
    this.#header = undefined;
    const status = STATUS_NAMES[header[4] ?? STATUS_END];
    if (status === undefined) {
      this.#checkEnd(bytes);
      return this.next();
    }
    this.#hasher.update(bytes);
    const index = this.#index;
    if (status !== "more") this.#index++;
    return { index, status, encoding: header[5] === 1 ? "zstd" : "none", bytes };
  }

  finish(): void {
    if (this.#ended) return;
    const at = `in item ${this.#index} of ${this.#items}`;
    throw new CastoreError("INCOMPLETE", `fetch answer: cut short ${at}`);
  }

  /** Before any byte of the frame is waited for, so that no length makes memory grow. */
  #checkHeader(header: Buffer): void {
    const [index, length] = [header.readUInt32BE(0), header.readUInt32BE(6)];
    const [status = STATUS_END, encoding] = header.subarray(4, 6);
    if (index !== this.#index) throw invalid(`frame of item ${index}, want ${this.#index}`);
    if (status === STATUS_END) {
      const at = `item ${index} of ${this.#items}`;
      if (index !== this.#items) throw invalid(`its end comes at ${at}`);
      if (encoding !== 0 || length !== DIGEST_BYTES) throw invalid("its end is malformed");
      return;
    }
    if (index >= this.#items) throw invalid(`frame of item ${index}, of ${this.#items}`);
    const name = STATUS_NAMES[status];
    if (name === undefined) throw invalid(`unknown status ${status}`);
    if (encoding !== 0 && encoding !== 1) throw invalid(`unknown encoding ${encoding}`);
    const carries = name === "done" || name === "more";
    if (!carries && (length > 0 || encoding !== 0)) throw invalid(`bytes in a frame «${name}»`);
    if (name === "more" && length === 0) throw invalid("an empty frame that is not the last");
    if (encoding === 0 ? length > FETCH_FRAME_BYTES_MAX : length > ENCODED_BYTES_MAX) {
      throw invalid(`frame of ${length} bytes`);
    }
  }

  #checkEnd(digest: Uint8Array): void {
    if (!digestBytes(this.#hasher.digest()).equals(digest)) {
      throw new CastoreError("CORRUPT", "fetch answer: its bytes do not match its digest");
    }
    this.#ended = true;
  }
}

/** The contents of a frame. Rejects CORRUPT or EXHAUSTED where they do not decode. */
export function fetchFrameContents(frame: FetchFrame): Uint8Array {
  if (frame.encoding === "none") return frame.bytes;
  return zstdDecompress(frame.bytes, FETCH_FRAME_BYTES_MAX);
}

function invalid(fault: string): CastoreError {
  return new CastoreError("INVALID", `fetch answer: ${fault}`);
}
