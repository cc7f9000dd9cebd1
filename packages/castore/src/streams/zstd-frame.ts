import { CastoreError } from "../castore-error.ts";

/** Most bytes of history that a frame may ask a decoder to keep: 128 MiB. */
export const ZSTD_WINDOW_LOG_MAX = 27;

const MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;
const DICTIONARY_ID_BYTES = [0, 1, 2, 4] as const;
const CONTENT_SIZE_BYTES = [0, 2, 4, 8] as const;

type Part = "magic" | "skippable" | "descriptor" | "header" | "block" | "content" | "end";

/**
 * Finds where zstd frames (RFC 8878) end, by their headers alone. node:zlib drops what follows
 * the first frame of a piece and takes truncated input for complete, so its output counts only
 * beside this. Everything wrong with the framing rejects CORRUPT; a window above
 * `ZSTD_WINDOW_LOG_MAX` rejects EXHAUSTED.
 */
export class ZstdFrameScanner {
  /** Bytes of the header field being read; the longest is 13. */
  readonly #field = Buffer.alloc(16);
  #fieldLength = 0;
  #fieldWant = 4;
  #part: Part = "magic";
  #skip = 0;
  #descriptor = 0;
  #lastBlock = false;
  #contentSize: number | undefined;

  /** Whether all that was scanned is whole frames. */
  get betweenFrames(): boolean {
    return this.#part === "magic" && this.#fieldLength === 0;
  }

  /** What the header of the frame at hand, or just ended, promises. */
  get contentSize(): number | undefined {
    return this.#contentSize;
  }

  /** Scans `piece` from `start`; returns where the frame at hand ends, or the piece's length. */
  scan(piece: Uint8Array, start: number): number {
    let at = start;
    while (at < piece.byteLength) {
      if (this.#part === "content" || this.#part === "end") {
        const take = Math.min(this.#skip, piece.byteLength - at);
        this.#skip -= take;
        at += take;
      } else {
        this.#field[this.#fieldLength++] = piece[at++] ?? 0;
        if (this.#fieldLength === this.#fieldWant) this.#takeField();
      }
      if (this.#skip === 0 && this.#passContent()) return at;
    }
    return at;
  }

  /** Rejects CORRUPT unless the input may end here. */
  finish(): void {
    if (!this.betweenFrames) throw corrupt("input ends inside a frame");
  }

  #expect(part: Part, bytes: number): void {
    this.#part = part;
    this.#fieldLength = 0;
    this.#fieldWant = bytes;
  }

  /** Moves on from skipped content; whether a frame ended. */
  #passContent(): boolean {
    if (this.#part === "end") {
      this.#expect("magic", 4);
      return true;
    }
    if (this.#part === "content") {
      if (!this.#lastBlock) {
        this.#expect("block", 3);
        return false;
      }
      this.#part = "end";
      this.#skip = (this.#descriptor & 4) === 0 ? 0 : 4;
      if (this.#skip === 0) return this.#passContent();
    }
    return false;
  }

  #takeField(): void {
    const field = this.#field;
    switch (this.#part) {
      case "magic":
        this.#takeMagic(field.readUInt32LE(0));
        break;
      case "skippable":
        this.#part = "end";
        this.#skip = field.readUInt32LE(0);
        break;
      case "descriptor":
        this.#takeDescriptor(field.readUInt8(0));
        break;
      case "header":
        this.#takeHeader(field);
        this.#expect("block", 3);
        break;
      default:
        this.#takeBlock(field.readUIntLE(0, 3));
    }
  }

  #takeMagic(magic: number): void {
    this.#contentSize = undefined;
    if (magic === MAGIC) this.#expect("descriptor", 1);
    else if ((magic & 0xfffffff0) >>> 0 === SKIPPABLE_MAGIC) this.#expect("skippable", 4);
    else throw corrupt("a frame does not start with the magic number");
  }

  #takeDescriptor(descriptor: number): void {
    if ((descriptor & 8) !== 0) throw corrupt("a reserved bit is set");
    this.#descriptor = descriptor;
    const singleSegment = (descriptor & 32) !== 0;
    const sizeBytes = contentSizeBytes(descriptor);
    this.#expect("header", (singleSegment ? 0 : 1) + dictionaryIdBytes(descriptor) + sizeBytes);
  }

  #takeHeader(field: Buffer): void {
    const descriptor = this.#descriptor;
    const singleSegment = (descriptor & 32) !== 0;
    const sizeAt = (singleSegment ? 0 : 1) + dictionaryIdBytes(descriptor);
    const size = readContentSize(field, sizeAt, contentSizeBytes(descriptor));
    const window = singleSegment ? (size ?? 0) : windowOf(field.readUInt8(0));
    if (window > 2 ** ZSTD_WINDOW_LOG_MAX) {
      throw new CastoreError(
        "EXHAUSTED",
        `zstd: window of ${window} bytes: the limit is ${2 ** ZSTD_WINDOW_LOG_MAX}`,
      );
    }
    this.#contentSize = size;
  }

  #takeBlock(header: number): void {
    const type = (header >>> 1) & 3;
    if (type === 3) throw corrupt("a block is of a reserved type");
    this.#lastBlock = (header & 1) === 1;
    this.#part = "content";
    // A run-length block holds one byte, however long it becomes.
    this.#skip = type === 1 ? 1 : header >>> 3;
  }
}

function dictionaryIdBytes(descriptor: number): number {
  return DICTIONARY_ID_BYTES[descriptor & 3] ?? 0;
}

function contentSizeBytes(descriptor: number): number {
  const flag = descriptor >>> 6;
  return flag === 0 && (descriptor & 32) !== 0 ? 1 : (CONTENT_SIZE_BYTES[flag] ?? 0);
}

function readContentSize(field: Buffer, at: number, bytes: number): number | undefined {
  if (bytes === 0) return undefined;
  if (bytes === 2) return field.readUInt16LE(at) + 256;
  if (bytes === 8) return Number(field.readBigUInt64LE(at));
  return field.readUIntLE(at, bytes);
}

function windowOf(descriptor: number): number {
  const base = 2 ** (10 + (descriptor >>> 3));
  return base + (base / 8) * (descriptor & 7);
}

function corrupt(what: string): CastoreError {
  return new CastoreError("CORRUPT", `zstd: ${what}`);
}
