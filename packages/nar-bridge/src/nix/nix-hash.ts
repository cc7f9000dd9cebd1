import { CastoreError } from "@castore/castore";
import { decodeNixbase32, encodeNixbase32, nixbase32Length } from "./nixbase32.ts";

declare const nixHashBrand: unique symbol;
declare const narHashBrand: unique symbol;

/** The algorithms that Nix names a hash by. */
export type HashAlgorithm = "md5" | "sha1" | "sha256" | "sha512";

/** A hash and its algorithm as `sha256:<nixbase32>`: compares by value and keys a Map. */
export type NixHash = string & { readonly [nixHashBrand]: true };

/** The SHA-256 of a NAR, as `sha256:<nixbase32>`. */
export type NarHash = NixHash & { readonly [narHashBrand]: true };

/** Bytes in a hash of each algorithm. */
export const HASH_BYTES: { readonly [algorithm in HashAlgorithm]: number } = {
  md5: 16,
  sha1: 20,
  sha256: 32,
  sha512: 64,
};

function isHashAlgorithm(text: string): text is HashAlgorithm {
  return Object.hasOwn(HASH_BYTES, text);
}

/** The hash whose bytes are `bytes`. Rejects INVALID on another length. */
export function nixHashOf(algorithm: HashAlgorithm, bytes: Uint8Array): NixHash {
  if (bytes.byteLength !== HASH_BYTES[algorithm]) {
    throw new CastoreError(
      "INVALID",
      `${algorithm} of ${bytes.byteLength} bytes: want ${HASH_BYTES[algorithm]}`,
    );
  }
  return `${algorithm}:${encodeNixbase32(bytes)}` as NixHash;
}

/**
 * Parses `ALGORITHM:DIGITS`, where the digits are nixbase32, hex or base64, and the SRI form
 * `ALGORITHM-BASE64`. Rejects INVALID.
 */
export function parseNixHash(text: string): NixHash {
  const match = /^([a-z0-9]+)([:-])(.*)$/.exec(text);
  const [, algorithm = "", separator, digits = ""] = match ?? [];
  if (!isHashAlgorithm(algorithm)) throw invalid(text, "no known algorithm before : or -");
  const bytes = digitsToBytes(digits, HASH_BYTES[algorithm], separator === "-");
  if (bytes === undefined) throw invalid(text, `not the digits of a ${algorithm}`);
  return nixHashOf(algorithm, bytes);
}

function digitsToBytes(digits: string, size: number, sri: boolean): Buffer | undefined {
  const base64Length = 4 * Math.ceil(size / 3);
  if (digits.length === base64Length) {
    const bytes = Buffer.from(digits, "base64");
    return bytes.toString("base64") === digits ? bytes : undefined;
  }
  if (sri) return undefined;
  if (digits.length === 2 * size) {
    return /^[0-9a-fA-F]*$/.test(digits) ? Buffer.from(digits, "hex") : undefined;
  }
  return digits.length === nixbase32Length(size) ? decodeNixbase32(digits) : undefined;
}

export function nixHashAlgorithm(hash: NixHash): HashAlgorithm {
  return hash.slice(0, hash.indexOf(":")) as HashAlgorithm;
}

/** The nixbase32 digits of `hash`, without its algorithm. */
export function nixHashDigits(hash: NixHash): string {
  return hash.slice(hash.indexOf(":") + 1);
}

/** The bytes of `hash`, freshly allocated. */
export function nixHashBytes(hash: NixHash): Buffer {
  return decodeNixbase32(nixHashDigits(hash));
}

/** `hash` in the SRI form: `sha256-<base64>`. */
export function formatSriHash(hash: NixHash): string {
  return `${nixHashAlgorithm(hash)}-${nixHashBytes(hash).toString("base64")}`;
}

/** The NarHash whose 32 bytes are `bytes`. Rejects INVALID on another length. */
export function narHashOf(bytes: Uint8Array): NarHash {
  return nixHashOf("sha256", bytes) as NarHash;
}

/** Parses a NarHash in any form that `parseNixHash` reads. Rejects INVALID. */
export function parseNarHash(text: string): NarHash {
  const hash = parseNixHash(text);
  if (nixHashAlgorithm(hash) !== "sha256") throw invalid(text, "a NAR is named by its sha256");
  return hash as NarHash;
}

/** The NarHash of 52 nixbase32 digits, as they stand in URLs. Rejects INVALID. */
export function narHashOfDigits(digits: string): NarHash {
  return narHashOf(decodeNixbase32(digits));
}

function invalid(text: string, fault: string): CastoreError {
  return new CastoreError("INVALID", `hash ${JSON.stringify(text.slice(0, 160))}: ${fault}`);
}
