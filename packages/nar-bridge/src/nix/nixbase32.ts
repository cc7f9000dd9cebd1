import { CastoreError } from "@castore/castore";

/** Nix's digits: 0-9 and a-z without e, o, t and u. */
export const NIXBASE32_ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz";

const VALUES = new Int8Array(128).fill(-1);
for (let value = 0; value < 32; value++) VALUES[NIXBASE32_ALPHABET.charCodeAt(value)] = value;

/** Digits that `byteLength` bytes take. */
export function nixbase32Length(byteLength: number): number {
  return Math.ceil((byteLength * 8) / 5);
}

/** The nixbase32 text of `bytes`: the last byte's bits come first. */
export function encodeNixbase32(bytes: Uint8Array): string {
  let text = "";
  for (let digit = nixbase32Length(bytes.byteLength) - 1; digit >= 0; digit--) {
    const bit = digit * 5;
    const index = bit >>> 3;
    const pair = (bytes[index] ?? 0) | ((bytes[index + 1] ?? 0) << 8);
    text += NIXBASE32_ALPHABET[(pair >>> (bit & 7)) & 31];
  }
  return text;
}

/**
 * The bytes of `text`. Rejects INVALID for another digit, for a length that no number of bytes
 * has, and for bits set beyond the last byte: each value has one text.
 */
export function decodeNixbase32(text: string): Buffer {
  const byteLength = Math.floor((text.length * 5) / 8);
  if (nixbase32Length(byteLength) !== text.length) throw invalid(text, "length");
  const bytes = Buffer.alloc(byteLength);
  for (let digit = 0; digit < text.length; digit++) {
    const value = VALUES[text.charCodeAt(text.length - 1 - digit)] ?? -1;
    if (value < 0) throw invalid(text, "digit");
    const bit = digit * 5;
    const index = bit >>> 3;
    const pair = value << (bit & 7);
    const carry = pair >>> 8;
    bytes[index] = (bytes[index] ?? 0) | (pair & 0xff);
    if (carry === 0) continue;
    if (index + 1 === byteLength) throw invalid(text, "trailing carry");
    bytes[index + 1] = carry;
  }
  return bytes;
}

function invalid(text: string, fault: string): CastoreError {
  return new CastoreError("INVALID", `nixbase32 ${JSON.stringify(text.slice(0, 128))}: ${fault}`);
}
