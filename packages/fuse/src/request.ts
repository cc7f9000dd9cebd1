import { REQUEST_BYTES_MAX } from "./protocol.ts";

/** Bytes of fuse_in_header. */
export const REQUEST_HEADER_BYTES = 40;

const BODY = REQUEST_HEADER_BYTES / 4;
const TWO_32 = 2 ** 32;

/**
 * One request of the kernel, seen in place: `buffer` is filled by a read of /dev/fuse and the
 * accessors below read from it, without an allocation. Which body accessors mean something depends
 * on the opcode.
 */
export class Request {
  readonly buffer: Buffer;
  readonly #words: Uint32Array;
  #length = 0;

  constructor(bytesMax = REQUEST_BYTES_MAX) {
    const memory = new ArrayBuffer((bytesMax + 3) & ~3);
    this.buffer = Buffer.from(memory);
    this.#words = new Uint32Array(memory);
  }

  /** Says that `length` bytes now stand in the buffer; false where they are no request. */
  begin(length: number): boolean {
    this.#length = length;
    return length >= REQUEST_HEADER_BYTES && this.#word(0) === length;
  }

  /** Copies a request. Returns as `begin` does. */
  load(bytes: Uint8Array): boolean {
    this.buffer.set(bytes);
    return this.begin(bytes.byteLength);
  }

  /** A copy of the request as it stands in the buffer. */
  copy(): Uint8Array {
    return Uint8Array.from(this.buffer.subarray(0, this.#length));
  }

  get opcode(): number {
    return this.#word(1);
  }

  /** The request's number, as two halves: the upper may have its highest bit set on a resend. */
  get uniqueLow(): number {
    return this.#word(2);
  }

  get uniqueHigh(): number {
    return this.#word(3);
  }

  /** The node id; one that was never given out (≥ 2^32) reads as 0, which no node has. */
  get nodeId(): number {
    return this.#word(5) === 0 ? this.#word(4) : 0;
  }

  get pid(): number {
    return this.#word(8);
  }

  // INIT

  get initMajor(): number {
    return this.#word(BODY);
  }

  get initMinor(): number {
    return this.#word(BODY + 1);
  }

  get initReadAhead(): number {
    return this.#word(BODY + 2);
  }

  get initFlags(): number {
    return this.#word(BODY + 3);
  }

  get initFlags2(): number {
    return this.#length >= REQUEST_HEADER_BYTES + 20 ? this.#word(BODY + 4) : 0;
  }

  // READ, READDIR, READDIRPLUS

  /** Bytes for READ; a cursor for READDIR and READDIRPLUS. */
  get readOffset(): number {
    return this.#word(BODY + 2) + this.#word(BODY + 3) * TWO_32;
  }

  get readSize(): number {
    return this.#word(BODY + 4);
  }

  // INTERRUPT: the number of the request that is to end

  get interruptedLow(): number {
    return this.#word(BODY);
  }

  get interruptedHigh(): number {
    return this.#word(BODY + 1);
  }

  // GETXATTR, LISTXATTR

  /** Room for the answer; 0 asks only for its length. */
  get xattrSize(): number {
    return this.#word(BODY);
  }

  get xattrName(): string {
    return this.buffer.toString("latin1", REQUEST_HEADER_BYTES + 8, this.#length - 1);
  }

  // RELEASE

  get handle(): number {
    return this.#word(BODY);
  }

  // LOOKUP: a name that ends with NUL

  get nameStart(): number {
    return REQUEST_HEADER_BYTES;
  }

  get nameLength(): number {
    return Math.max(0, this.#length - REQUEST_HEADER_BYTES - 1);
  }

  get name(): string {
    return this.buffer.toString("latin1", this.nameStart, this.nameStart + this.nameLength);
  }

  #word(index: number): number {
    return this.#words[index] ?? 0;
  }
}
