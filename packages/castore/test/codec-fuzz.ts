import fc from "fast-check";
import { expect } from "vitest";
import { CastoreError } from "../src/castore-error.ts";

/** A codec that accepts one encoding of each value only. */
export interface CanonicalCodec<T> {
  encode(value: T): Uint8Array;
  decode(bytes: Uint8Array): T;
}

/** Runs of one property; CASTORE_FUZZ_RUNS makes a long run of it. */
export const FUZZ_RUNS = Number(process.env.CASTORE_FUZZ_RUNS ?? 300);

/** Every value survives, in an encoding that decodes to it. */
export function expectRoundTrip<T>(codec: CanonicalCodec<T>, values: fc.Arbitrary<T>): void {
  const run = (value: T): void => {
    const bytes = codec.encode(value);
    expect(codec.decode(bytes)).toEqual(value);
  };
  fc.assert(fc.property(values, run), { numRuns: FUZZ_RUNS });
}

/**
 * Bytes near to valid ones are refused with INVALID or EXHAUSTED, or they are the encoding of what
 * they decode to: nothing has two encodings, and no input makes a decoder fail in another way.
 */
export function expectStrict<T>(codec: CanonicalCodec<T>, valid: fc.Arbitrary<Uint8Array>): void {
  const run = (bytes: Uint8Array): void => {
    let value: T;
    try {
      value = codec.decode(bytes);
    } catch (error) {
      if (!(error instanceof CastoreError)) throw error;
      expect(["INVALID", "EXHAUSTED"]).toContain(error.code);
      return;
    }
    expect(Buffer.from(codec.encode(value)).equals(bytes)).toBe(true);
  };
  fc.assert(fc.property(mutated(valid), run), { numRuns: 4 * FUZZ_RUNS });
}

/** Bytes with up to three faults: a bit flipped, a part cut out, doubled, or put in. */
export function mutated(valid: fc.Arbitrary<Uint8Array>): fc.Arbitrary<Buffer> {
  const fault = fc.record({
    kind: fc.constantFrom("flip", "set", "cut", "double", "insert", "end"),
    at: fc.nat(),
    length: fc.nat({ max: 40 }),
    byte: fc.nat({ max: 255 }),
  });
  return fc.tuple(valid, fc.array(fault, { maxLength: 3 })).map(([bytes, faults]) => {
    let result = Buffer.from(bytes);
    for (const { kind, at, length, byte } of faults) {
      const start = at % (result.length + 1);
      const [head, tail] = [result.subarray(0, start), result.subarray(start)];
      const part = tail.subarray(0, length);
      if (kind === "end") result = Buffer.from(head);
      if (kind === "cut") result = Buffer.concat([head, tail.subarray(length)]);
      if (kind === "double") result = Buffer.concat([head, part, tail]);
      if (kind === "insert") result = Buffer.concat([head, Buffer.of(byte), tail]);
      if (kind === "set" && tail.length > 0) tail[0] = byte;
      if (kind === "flip" && tail.length > 0) tail[0] = (tail[0] ?? 0) ^ (1 << (byte & 7));
    }
    return result;
  });
}
