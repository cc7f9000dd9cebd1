import { isCastoreError } from "@castore/castore";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  decodeNixbase32,
  encodeNixbase32,
  NIXBASE32_ALPHABET,
  nixbase32Length,
} from "../src/nix/nixbase32.ts";
import { vectors } from "./vectors.ts";

const { alphabet, pairs, invalid, decode_len, encode_len } = vectors.nixbase32;

describe("nixbase32", () => {
  it("has snix's alphabet", () => {
    expect(NIXBASE32_ALPHABET).toBe(alphabet);
  });

  it.each(pairs)("takes %j and %j for the same bytes", (text, hex) => {
    expect(encodeNixbase32(Buffer.from(hex, "hex"))).toBe(text);
    expect(decodeNixbase32(text).toString("hex")).toBe(hex);
  });

  it.each(invalid)("refuses %j for its %s", (text, fault) => {
    expect(() => decodeNixbase32(text)).toThrowError(
      expect.objectContaining({ code: "INVALID", message: expect.stringContaining(fault) }),
    );
  });

  it("has snix's lengths", () => {
    for (const [bytes, digits] of Object.entries(encode_len)) {
      expect(nixbase32Length(Number(bytes))).toBe(digits);
    }
    for (const [digits, bytes] of Object.entries(decode_len)) {
      if (nixbase32Length(bytes) !== Number(digits)) continue;
      expect(decodeNixbase32("0".repeat(Number(digits)))).toHaveLength(bytes);
    }
  });

  it("gives any bytes back", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 70 }), (bytes) => {
        expect(decodeNixbase32(encodeNixbase32(bytes))).toEqual(Buffer.from(bytes));
      }),
    );
  });

  it("accepts a text only as the one text of its bytes", () => {
    const text = fc.string({
      unit: fc.constantFrom(...alphabet, "e", "A", " ", "é"),
      maxLength: 9,
    });
    fc.assert(
      fc.property(text, (candidate) => {
        try {
          expect(encodeNixbase32(decodeNixbase32(candidate))).toBe(candidate);
        } catch (error) {
          if (!isCastoreError(error, "INVALID")) throw error;
        }
      }),
      { numRuns: 2000 },
    );
  });
});
