/** Bytes that `value` takes as a varint. `value` is a safe integer ≥ 0. */
export function varintLength(value: number): number {
  let length = 1;
  let rest = value;
  while (rest >= 128) {
    rest = Math.floor(rest / 128);
    length++;
  }
  return length;
}

/** Bytes that `values` take as a packed list, without its tag and length. */
export function packedLength(values: readonly number[]): number {
  let length = 0;
  for (const value of values) length += varintLength(value);
  return length;
}

/** Bytes of a field with a one-byte tag, a length and `length` bytes; nothing where it is empty. */
export function fieldLength(length: number): number {
  return length === 0 ? 0 : 1 + varintLength(length) + length;
}

/** Writes canonical protobuf into a buffer of exactly known size. */
export class WireWriter {
  readonly buffer: Buffer;
  #position = 0;

  constructor(size: number) {
    this.buffer = Buffer.allocUnsafe(size);
  }

  /** A one-byte tag, or any other byte. */
  byte(value: number): void {
    this.buffer[this.#position++] = value;
  }

  varint(value: number): void {
    let rest = value;
    while (rest >= 128) {
      this.buffer[this.#position++] = (rest % 128) | 0x80;
      rest = Math.floor(rest / 128);
    }
    this.buffer[this.#position++] = rest;
  }

  /** `text` in latin1 (one byte a character), after its length. */
  latin1(text: string): void {
    this.varint(text.length);
    this.buffer.write(text, this.#position, "latin1");
    this.#position += text.length;
  }

  /** The bytes that `hex` stands for, after their length. */
  hex(hex: string): void {
    this.varint(hex.length / 2);
    this.#position += this.buffer.write(hex, this.#position, "hex");
  }

  /** `values` as a packed list after its tag and length; nothing where there are none. */
  packed(tag: number, values: readonly number[]): void {
    if (values.length === 0) return;
    this.byte(tag);
    this.varint(packedLength(values));
    for (const value of values) this.varint(value);
  }

  /** `bytes` after their length. */
  bytes(bytes: Uint8Array): void {
    this.varint(bytes.byteLength);
    this.buffer.set(bytes, this.#position);
    this.#position += bytes.byteLength;
  }
}
