import fc from "fast-check";
import { expect } from "vitest";
import { FUZZ_RUNS, mutated } from "../../../test/support/mutated-bytes.ts";
import { CastoreError } from "../src/castore-error.ts";

/** A codec that accepts one encoding of each value only. */
export interface CanonicalCodec<T> {
  encode(value: T): Uint8Array;
  decode(bytes: Uint8Array): T;
}

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
