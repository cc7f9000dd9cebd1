import { createPrivateKey, createPublicKey, type KeyObject, sign, verify } from "node:crypto";
import { CastoreError } from "@castore/castore";

const PUBLIC_BYTES = 32;
const SECRET_BYTES = 64;

/** Bytes in a signature. */
export const SIGNATURE_BYTES = 64;

/** What keys and signatures may be called: printable ASCII without space and colon. */
const KEY_NAME = /^[!-9;-~]+$/;

/** Most characters of a key's name. */
export const KEY_NAME_LENGTH_MAX = 256;

/**
 * `NAME:BASE64`, taken apart. Rejects INVALID unless the base64 is canonical and of `size` bytes.
 */
export function parseNamedBytes(
  text: string,
  size: number,
  what: string,
): { name: string; bytes: Buffer } {
  const colon = text.indexOf(":");
  const name = text.slice(0, Math.max(colon, 0));
  if (!KEY_NAME.test(name) || name.length > KEY_NAME_LENGTH_MAX) {
    throw new CastoreError("INVALID", `${what}: want NAME:BASE64 with a printable name`);
  }
  const bytes = Buffer.from(text.slice(colon + 1), "base64");
  if (bytes.byteLength !== size || bytes.toString("base64") !== text.slice(colon + 1)) {
    throw new CastoreError("INVALID", `${what} ${name}: want base64 of ${size} bytes`);
  }
  return { name, bytes };
}

/** The public half of a key and its name. */
export class PublicKey {
  readonly name: string;
  /** `NAME:BASE64`. */
  readonly text: string;
  readonly #key: KeyObject;

  private constructor(name: string, bytes: Buffer) {
    this.name = name;
    this.text = `${name}:${bytes.toString("base64")}`;
    const jwk = { kty: "OKP", crv: "Ed25519", x: bytes.toString("base64url") };
    this.#key = createPublicKey({ key: jwk, format: "jwk" });
  }

  /** Parses `NAME:BASE64`. Rejects INVALID, also for a key under which anything would verify. */
  static parse(text: string): PublicKey {
    const { name, bytes } = parseNamedBytes(text, PUBLIC_BYTES, "public key");
    if (isWeakPoint(bytes)) throw new CastoreError("INVALID", `public key ${name}: weak point`);
    return new PublicKey(name, bytes);
  }

  /** Whether `signature`, 64 bytes, is this key's of `message`. */
  verifies(message: string, signature: Uint8Array): boolean {
    if (signature.byteLength !== SIGNATURE_BYTES || isWeakPoint(signature)) return false;
    return verify(null, Buffer.from(message), this.#key, signature);
  }
}

/**
 * The key among `keys` that signed one of `messages`, or undefined. `signature` is
 * `NAME:BASE64`, already parsed once; only keys of that name are tried.
 */
export function signerOf(
  keys: readonly PublicKey[],
  messages: readonly string[],
  signature: string,
): PublicKey | undefined {
  const { name, bytes } = parseNamedBytes(signature, SIGNATURE_BYTES, "signature");
  const named = keys.filter((key) => key.name === name);
  return named.find((key) => messages.some((message) => key.verifies(message, bytes)));
}

/** A whole key and its name. Prints as its public half. */
export class SecretKey {
  readonly publicKey: PublicKey;
  readonly #key: KeyObject;

  private constructor(key: KeyObject, publicKey: PublicKey) {
    this.#key = key;
    this.publicKey = publicKey;
  }

  /**
   * Parses `NAME:BASE64` of seed and public half, with or without a line end after it. Rejects
   * INVALID, also where the halves do not belong together; no message holds the key.
   */
  static parse(text: string): SecretKey {
    const { name, bytes } = parseNamedBytes(text.trimEnd(), SECRET_BYTES, "secret key");
    const half = bytes.subarray(SECRET_BYTES / 2);
    const publicKey = PublicKey.parse(`${name}:${half.toString("base64")}`);
    const d = bytes.subarray(0, SECRET_BYTES / 2).toString("base64url");
    const x = half.toString("base64url");
    const key = createPrivateKey({ key: { kty: "OKP", crv: "Ed25519", d, x }, format: "jwk" });
    if (createPublicKey(key).export({ format: "jwk" }).x !== x) {
      throw new CastoreError("INVALID", `secret key ${name}: its public half is another key's`);
    }
    return new SecretKey(key, publicKey);
  }

  get name(): string {
    return this.publicKey.name;
  }

  /** The 64 bytes of the signature of `message`. */
  sign(message: string): Buffer {
    return sign(null, Buffer.from(message), this.#key);
  }

  toJSON(): string {
    return this.publicKey.text;
  }
}

/** y of the points of order 1, 2, 4 and 8; the sign bit doubles them. Little-endian hex. */
const SMALL_ORDER_Y = new Set([
  "0100000000000000000000000000000000000000000000000000000000000000",
  "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "0000000000000000000000000000000000000000000000000000000000000000",
  "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
]);

/**
 * Whether the point that `bytes` begins with has small order or is not in its one encoding.
 * node:crypto takes such points as keys and in signatures; strict verification does not, since
 * under one of them a signature holds for many messages.
 */
function isWeakPoint(bytes: Uint8Array): boolean {
  const y = Buffer.from(bytes.subarray(0, 32));
  y[31] = (y[31] ?? 0) & 0x7f;
  if (SMALL_ORDER_Y.has(y.toString("hex"))) return true;
  const high = y[31] === 0x7f && y.subarray(1, 31).every((byte) => byte === 0xff);
  return high && (y[0] ?? 0) >= 0xed;
}
