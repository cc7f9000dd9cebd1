import type { ByteSource } from "@castore/castore";

/** What the slices of one go may become, and once more the 2 MiB of a chunk of LZMA2. */
const OUTPUT_BYTES = 1 << 20;
/** Most bytes of a slice. */
const SLICE_BYTES = 1 << 16;
/** The same where it is not known what they become: LZMA can make 7 MiB of a KiB. */
const UNKNOWN_SLICE_BYTES = 1 << 10;

const MAGIC = Buffer.from("fd377a585a00", "hex");
/** By the number in the stream's header. */
const CHECK_BYTES = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64] as const;

type Part = "stream" | "block" | "chunk" | "chunk header" | "unknown";

/**
 * `source` cut into slices that each become a few MiB at most when they are decompressed. Reads
 * the framing of .xz and of LZMA2 in its first stream, which say what each chunk becomes; from
 * the index on, and where the framing is not understood, it cuts small slices. Checks nothing.
 */
export async function* sliceXz(source: ByteSource): AsyncGenerator<Uint8Array, void, undefined> {
  const framing = new XzFraming();
  for await (const piece of source) {
    let start = 0;
    for (let at = 0; at < piece.byteLength; ) {
      const sliceBytes = framing.isKnown ? SLICE_BYTES : UNKNOWN_SLICE_BYTES;
      at = framing.scan(piece, at, Math.min(piece.byteLength, start + sliceBytes));
      if (at - start < sliceBytes && !framing.isFull && at < piece.byteLength) continue;
      yield piece.subarray(start, at);
      framing.startSlice();
      start = at;
    }
  }
}

class XzFraming {
  /** The header being read; the longest is the stream's. */
  readonly #header = Buffer.alloc(12);
  #headerLength = 0;
  #headerWant = 12;
  #part: Part = "stream";
  #skip = 0;
  #checkBytes = 0;
  /** Bytes of LZMA2 in this block, modulo 4. */
  #blockBytes = 0;
  /** What the chunks that begin in this slice become. */
  #sliceOutput = 0;

  get isKnown(): boolean {
    return this.#part !== "unknown";
  }

  /** Whether the slice should end here. */
  get isFull(): boolean {
    return this.#sliceOutput > OUTPUT_BYTES;
  }

  startSlice(): void {
    this.#sliceOutput = 0;
  }

  /** Scans [at, end) up to where the slice is full at the latest; returns how far it came. */
  scan(piece: Uint8Array, start: number, end: number): number {
    let at = start;
    while (at < end) {
      if (!this.isKnown) return end;
      if (this.#skip > 0) {
        const taken = Math.min(this.#skip, end - at);
        this.#skip -= taken;
        at += taken;
        continue;
      }
      this.#header[this.#headerLength++] = piece[at++] ?? 0;
      if (this.#headerLength < this.#headerWant) continue;
      this.#takeHeader();
      if (this.isFull) return at;
    }
    return at;
  }

  #expect(part: Part, bytes: number): void {
    this.#part = part;
    this.#headerLength = 0;
    this.#headerWant = bytes;
  }

  #takeHeader(): void {
    const header = this.#header;
    const first = header.readUInt8(0);
    if (this.#part === "stream") {
      const isXz = header.subarray(0, MAGIC.byteLength).equals(MAGIC);
      this.#checkBytes = CHECK_BYTES[header.readUInt8(7) & 15] ?? 0;
      this.#expect(isXz ? "block" : "unknown", 1);
    } else if (this.#part === "block") {
      // Zero begins the index.
      this.#skip = first === 0 ? 0 : first * 4 + 3;
      this.#blockBytes = 0;
      this.#expect(first === 0 ? "unknown" : "chunk", 1);
    } else if (this.#part === "chunk") {
      this.#takeControl(first);
    } else {
      this.#takeChunkHeader(first);
    }
  }

  #takeControl(control: number): void {
    if (control === 0) {
      this.#skip = ((4 - ((this.#blockBytes + 1) % 4)) % 4) + this.#checkBytes;
      this.#expect("block", 1);
    } else if (control < 3 || control >= 0x80) {
      // The control byte stays the header's first.
      this.#expect("chunk header", control < 3 ? 3 : control >= 0xc0 ? 6 : 5);
      this.#headerLength = 1;
    } else {
      this.#expect("unknown", 0);
    }
  }

  #takeChunkHeader(control: number): void {
    const low = this.#header.readUInt16BE(1);
    const isPacked = control >= 0x80;
    const output = (isPacked ? (control & 0x1f) << 16 : 0) + low + 1;
    this.#skip = isPacked ? this.#header.readUInt16BE(3) + 1 : output;
    this.#blockBytes = (this.#blockBytes + this.#headerWant + this.#skip) % 4;
    this.#sliceOutput += output;
    this.#expect("chunk", 1);
  }
}
