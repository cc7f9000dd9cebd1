import { CastoreError } from "../castore-error.ts";
import { WIRE_BYTES, WIRE_VARINT } from "./wire-reader.ts";
import { varintLength, WireWriter } from "./wire-writer.ts";

const WIRE_FIXED64 = 1;
const WIRE_FIXED32 = 5;

/**
 * Reads a protobuf message as other programs do: fields in any order and any number, unknown ones
 * skipped. Holds no copy. Every fault rejects INVALID and names the message. What has a digest is
 * read by WireReader instead, or encoded again before it is hashed.
 */
export class WireFields {
  readonly #bytes: Uint8Array;
  readonly #message: string;
  #position = 0;
  #wireType = WIRE_VARINT;

  constructor(bytes: Uint8Array, message: string) {
    this.#bytes = bytes;
    this.#message = message;
  }

  /** Moves to the next field and returns its number; 0 at the end. */
  next(): number {
    if (this.#position >= this.#bytes.byteLength) return 0;
    const tag = this.#varint();
    const field = tag >> 3n;
    if (field === 0n || field > 0x1fffffffn) this.#fail("field number out of range");
    this.#wireType = Number(tag & 7n);
    return Number(field);
  }

  /** The value of a field of type bytes, as a view. */
  bytes(): Uint8Array {
    this.#expect(WIRE_BYTES);
    return this.#take(this.#length());
  }

  /** The value of a field of type uint64, below 2^53. */
  uint(): number {
    this.#expect(WIRE_VARINT);
    const value = this.#varint();
    if (value > BigInt(Number.MAX_SAFE_INTEGER))
      this.#fail("SizeOverflow: integer of 2^53 or more");
    return Number(value);
  }

  /** The value of a field of type bool. */
  bool(): boolean {
    this.#expect(WIRE_VARINT);
    return this.#varint() !== 0n;
  }

  /** Passes over the value of a field that is not known. */
  skip(): void {
    if (this.#wireType === WIRE_VARINT) this.#varint();
    else if (this.#wireType === WIRE_BYTES) this.#take(this.#length());
    else if (this.#wireType === WIRE_FIXED64) this.#take(8);
    else if (this.#wireType === WIRE_FIXED32) this.#take(4);
    else this.#fail(`wire type ${this.#wireType}`);
  }

  #expect(wireType: number): void {
    if (this.#wireType !== wireType) this.#fail(`wire type ${this.#wireType}, want ${wireType}`);
  }

  #length(): number {
    const length = this.#varint();
    if (length > BigInt(this.#bytes.byteLength)) this.#fail("truncated");
    return Number(length);
  }

  #take(length: number): Uint8Array {
    const start = this.#position;
    if (length > this.#bytes.byteLength - start) this.#fail("truncated");
    this.#position = start + length;
    return this.#bytes.subarray(start, this.#position);
  }

  #varint(): bigint {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.#bytes[this.#position++];
      if (byte === undefined) this.#fail("truncated");
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return BigInt.asUintN(64, value);
    }
    this.#fail("varint of more than 10 bytes");
  }

  #fail(fault: string): never {
    throw new CastoreError("INVALID", `${this.#message}: ${fault} at byte ${this.#position}`);
  }
}

/** A field of type bytes; nothing where it is empty, as proto3 has it. */
export function bytesField(field: number, bytes: Uint8Array): Buffer {
  return bytes.byteLength === 0 ? Buffer.alloc(0) : messageField(field, bytes);
}

/** A field that holds a message, or an element of a list: written even where it is empty. */
export function messageField(field: number, bytes: Uint8Array): Buffer {
  const length = bytes.byteLength;
  const writer = new WireWriter(1 + varintLength(length) + length);
  writer.byte((field << 3) | WIRE_BYTES);
  writer.bytes(bytes);
  return writer.buffer;
}

/** A field of type uint64, bool or enum; nothing where it is zero. */
export function uintField(field: number, value: number): Buffer {
  if (value === 0) return Buffer.alloc(0);
  const writer = new WireWriter(1 + varintLength(value));
  writer.byte(field << 3);
  writer.varint(value);
  return writer.buffer;
}
