import { CastoreError } from "@castore/castore";
import protobuf from "protobufjs/minimal.js";

const WIRE_VARINT = 0;
const WIRE_BYTES = 2;

/** Writes a protobuf message, fields in the order of the calls; defaults are left out. */
export class MessageWriter {
  readonly #writer = protobuf.Writer.create();

  /** A bytes, string or message field, also when empty: for messages and repeated fields. */
  bytes(field: number, bytes: Uint8Array): this {
    this.#writer.uint32((field << 3) | WIRE_BYTES).bytes(bytes);
    return this;
  }

  /** A string field; left out when empty or undefined. */
  text(field: number, text: string | undefined): this {
    if (text) this.#writer.uint32((field << 3) | WIRE_BYTES).string(text);
    return this;
  }

  /** An integer or enum field; left out when 0. */
  uint(field: number, value: number): this {
    if (value !== 0) this.#writer.uint32((field << 3) | WIRE_VARINT).uint64(value);
    return this;
  }

  finish(): Uint8Array {
    return this.#writer.finish();
  }
}

/** The fields of a message by number: of each, its values in the order they stand in. */
export class MessageFields {
  readonly #what: string;
  readonly #bytes = new Map<number, Uint8Array[]>();
  readonly #uints = new Map<number, number>();

  /**
   * Reads all of `bytes`, in any order and with unknown fields, as proto3 allows. Holds views.
   * Rejects INVALID, naming the message as `what`.
   */
  constructor(bytes: Uint8Array, what: string) {
    this.#what = what;
    try {
      this.#read(protobuf.Reader.create(bytes));
    } catch (cause) {
      throw new CastoreError("INVALID", `${what}: not a protobuf message`, { cause });
    }
  }

  #read(reader: protobuf.Reader): void {
    while (reader.pos < reader.len) {
      const tag = reader.uint32();
      const field = tag >>> 3;
      if ((tag & 7) === WIRE_BYTES) {
        const values = this.#bytes.get(field);
        if (values === undefined) this.#bytes.set(field, [reader.bytes()]);
        else values.push(reader.bytes());
      } else if ((tag & 7) === WIRE_VARINT) {
        this.#uints.set(field, Number(reader.uint64().toString()));
      } else {
        reader.skipType(tag & 7);
      }
    }
  }

  /** The values of a repeated field. */
  all(field: number): readonly Uint8Array[] {
    return this.#bytes.get(field) ?? [];
  }

  /** The last value of a field, or undefined. */
  last(field: number): Uint8Array | undefined {
    return this.all(field).at(-1);
  }

  /** The bytes of a field, empty where it is missing. */
  bytes(field: number): Uint8Array {
    return this.last(field) ?? new Uint8Array(0);
  }

  /** The text of a field, empty where it is missing. Rejects INVALID where it is not UTF-8. */
  text(field: number): string {
    return decodeText(this.bytes(field), this.#what);
  }

  /** The texts of a repeated field. Rejects INVALID where one is not UTF-8. */
  texts(field: number): readonly string[] {
    return this.all(field).map((bytes) => decodeText(bytes, this.#what));
  }

  /** The integer of a field, 0 where it is missing. Rejects INVALID from 2^53 on. */
  uint(field: number): number {
    const value = this.#uints.get(field) ?? 0;
    if (Number.isSafeInteger(value)) return value;
    throw new CastoreError("INVALID", `${this.#what}, field ${field}: integer of 2^53 or more`);
  }

  /** The message in a field, or undefined. One that is given in pieces is one message. */
  message(field: number, what: string): MessageFields | undefined {
    const parts = this.all(field);
    return parts.length === 0 ? undefined : new MessageFields(Buffer.concat(parts), what);
  }
}

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function decodeText(bytes: Uint8Array, what: string): string {
  try {
    return UTF8.decode(bytes);
  } catch (cause) {
    throw new CastoreError("INVALID", `${what}: a string is not UTF-8`, { cause });
  }
}
