import { type PublicKey, parseNamedBytes, type SecretKey, SIGNATURE_BYTES } from "./ed25519-key.ts";

declare const signatureBrand: unique symbol;

/** A signature of a narinfo's fingerprint as `KEYNAME:BASE64`, byte for byte as it was sent. */
export type Signature = string & { readonly [signatureBrand]: true };

/** Parses a narinfo's Sig. Rejects INVALID. */
export function parseSignature(text: string): Signature {
  parseNamedBytes(text, SIGNATURE_BYTES, "signature");
  return text as Signature;
}

/** The signature with these 64 bytes by the key called `name`. Rejects INVALID. */
export function signatureOf(name: string, bytes: Uint8Array): Signature {
  return parseSignature(`${name}:${Buffer.from(bytes).toString("base64")}`);
}

/** The name of the key that is said to have signed. */
export function signatureKeyName(signature: Signature): string {
  return signature.slice(0, signature.indexOf(":"));
}

/** The 64 bytes of `signature`, freshly allocated. */
export function signatureBytes(signature: Signature): Buffer {
  return Buffer.from(signature.slice(signature.indexOf(":") + 1), "base64");
}

/** Whether `signature` is `key`'s, by name and by proof, of `fingerprint`. */
export function verifySignature(
  key: PublicKey,
  fingerprint: string,
  signature: Signature,
): boolean {
  return (
    signatureKeyName(signature) === key.name && key.verifies(fingerprint, signatureBytes(signature))
  );
}

/** The signature of `fingerprint` by `key`. */
export function signFingerprint(key: SecretKey, fingerprint: string): Signature {
  return signatureOf(key.name, key.sign(fingerprint));
}
