import { CastoreError } from "../castore-error.ts";

/** Protobuf wire types that castore's messages use. */
export const WIRE_VARINT = 0;
export const WIRE_BYTES = 2;

/**
 * Reads canonical protobuf: minimal varints, integers below 2^53, fields where they are expected.
 * Holds no copy: `bytes()` returns views. Every fault rejects INVALID and names the message.
 */
export class WireReader {
  readonly #bytes: Buffer;
  #end: number;
  #message: string;
  #position: number;

  constructor(bytes: Uint8Array, message: string) {
    this.#bytes = Buffer.isBuffer(bytes)
      ? bytes
      : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#position = 0;
    this.#end = bytes.byteLength;
    this.#message = message;
  }

  get done(): boolean {
    return this.#position === this.#end;
  }

  /** The next byte without taking it; -1 at the end. A tag of castore's messages is one byte. */
  peek(): number {
    return this.#position < this.#end ? (this.#bytes[this.#position] ?? -1) : -1;
  }

  /** Takes the tag of `field` with `wireType` if it is next. */
  takeTag(field: number, wireType: number): boolean {
    if (this.peek() !== ((field << 3) | wireType)) return false;
    this.#position++;
    return true;
  }

  /** A minimal varint below 2^53. */
  varint(): number {
    let value = 0;
    let scale = 1;
    for (let length = 1; length <= 10; length++) {
      const byte = this.#bytes[this.#position];
      if (byte === undefined || this.#position >= this.#end) this.fail("truncated");
      this.#position++;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        if (byte === 0 && length > 1) this.fail("varint is not minimal");
        if (!Number.isSafeInteger(value)) this.fail("SizeOverflow: integer of 2^53 or more");
        return value;
      }
      scale *= 128;
    }
    this.fail("varint of more than 10 bytes");
  }

  /** A varint that is not zero, as proto3 omits zero. */
  nonZero(): number {
    const value = this.varint();
    if (value === 0) this.fail("default value is written out");
    return value;
  }

  /** A length-delimited field, as a view. */
  bytes(): Uint8Array {
    const start = this.#take();
    return this.#bytes.subarray(start, this.#position);
  }

  /** A length-delimited field, a character a byte. Without a view, in half the time. */
  latin1(): string {
    const start = this.#take();
    return this.#bytes.toString("latin1", start, this.#position);
  }

  /** A length-delimited field in hex, as `latin1`. */
  hex(): string {
    const start = this.#take();
    return this.#bytes.toString("hex", start, this.#position);
  }

  /**
   * Begins a length-delimited field that is a message called so: until `leave`, its end counts as
   * the end. What `leave` is to be given. In place of a reader of its own, which costs as much as
   * reading a name and a node.
   */
  enter(message: string): number {
    const start = this.#take();
    const outer = this.#end;
    this.#end = this.#position;
    this.#position = start;
    this.#message = message;
    return outer;
  }

  leave(outer: number, message: string): void {
    this.#end = outer;
    this.#message = message;
  }

  /** Takes a length-delimited field; where its bytes begin. */
  #take(): number {
    const length = this.varint();
    const start = this.#position;
    if (length > this.#end - start) this.fail("truncated");
    this.#position = start + length;
    return start;
  }

  /** A packed list of integers, at least one, as proto3 omits an empty list. */
  packed(): number[] {
    const items = new WireReader(this.bytes(), this.#message);
    if (items.done) this.fail("default value is written out");
    const values: number[] = [];
    while (!items.done) values.push(items.varint());
    return values;
  }

  fail(fault: string): never {
    throw new CastoreError("INVALID", `${this.#message}: ${fault} at byte ${this.#position}`);
  }
}
