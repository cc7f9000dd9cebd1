import { Blake3Hasher, blake3 } from "@napi-rs/blake-hash";
import { CastoreError } from "../castore-error.ts";

declare const digestBrand: unique symbol;

/** A BLAKE3 digest as 64 lowercase hex digits: compares by value and keys a Map. */
export type Digest = string & { readonly [digestBrand]: true };

/** Bytes in a digest. */
export const DIGEST_BYTES = 32;

/** The digest of no bytes: the empty blob and the empty directory. */
export const EMPTY_DIGEST =
  "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262" as Digest;

/** The digest of `bytes`. */
export function digestOf(bytes: Uint8Array): Digest {
  return blake3(bytes).toString("hex") as Digest;
}

/** A running digest. */
export interface DigestHasher {
  /** Adds `bytes`, which stay the caller's. */
  update(bytes: Uint8Array): void;
  /** The digest of what was added so far. */
  digest(): Digest;
}

export function createDigestHasher(): DigestHasher {
  const hasher = new Blake3Hasher();
  return {
    update(bytes) {
      hasher.update(bytes);
    },
    digest() {
      return hasher.digest("hex") as Digest;
    },
  };
}

/** Parses 64 lowercase hex digits. Rejects INVALID. */
export function parseDigest(hex: string): Digest {
  if (!/^[0-9a-f]{64}$/.test(hex)) {
    throw new CastoreError(
      "INVALID",
      `digest ${JSON.stringify(hex)}: want 64 lowercase hex digits`,
    );
  }
  return hex as Digest;
}

/** The digest whose 32 bytes are `bytes`. Rejects INVALID on another length. */
export function digestOfBytes(bytes: Uint8Array): Digest {
  if (bytes.byteLength !== DIGEST_BYTES) {
    throw new CastoreError("INVALID", `digest of ${bytes.byteLength} bytes: want ${DIGEST_BYTES}`);
  }
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, DIGEST_BYTES);
  return buffer.toString("hex") as Digest;
}

/** The 32 bytes of `digest`, freshly allocated. */
export function digestBytes(digest: Digest): Buffer {
  return Buffer.from(digest, "hex");
}

/** snix's text form: "blake3-" and padded standard base64. */
export function formatDigestText(digest: Digest): string {
  return `blake3-${digestBytes(digest).toString("base64")}`;
}
