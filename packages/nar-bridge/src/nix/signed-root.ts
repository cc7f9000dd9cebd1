import { type Digest, digestOf, formatEntryText, type Node } from "@castore/castore";
import { PublicKey, parseNamedBytes, SecretKey, SIGNATURE_BYTES, signerOf } from "./ed25519-key.ts";
import { acceptedFingerprints, type Fingerprinted, formatFingerprint } from "./fingerprint.ts";

declare const rootSignatureBrand: unique symbol;

/** `KEYNAME:BASE64`: a key says that a store path, as fingerprinted, has a certain root node. */
export type RootSignature = string & { readonly [rootSignatureBrand]: true };

/** Parses a root signature. Rejects INVALID. */
export function parseRootSignature(text: string): RootSignature {
  parseNamedBytes(text, SIGNATURE_BYTES, "root signature");
  return text as RootSignature;
}

/** A path, its root node and who vouches for the two belonging together. */
export interface SignedRoot extends Fingerprinted {
  readonly node: Node;
  readonly rootSignatures: readonly RootSignature[];
}

/** The text that a root signature is of (docs/protocol.md, Signed roots). */
export function formatRootFingerprint(path: Fingerprinted, node: Node): string {
  return rootFingerprint(formatFingerprint(path), node);
}

/** An image of the metadata of roots: a file system without contents, but for their digests. */
export interface RootsImage {
  /** Of its bytes. */
  readonly digest: Digest;
  /** In ascending order of store path. */
  readonly roots: readonly (Fingerprinted & { readonly node: Node })[];
}

/** The text that a signature is of which says that an image shows roots as they are. */
export function formatImageFingerprint({ digest, roots }: RootsImage): string {
  const lines = roots.map((root) => `${formatRootFingerprint(root, root.node)}\n`);
  return `castore-image/1;${digest};${digestOf(Buffer.from(lines.join(""), "latin1"))}`;
}

function rootFingerprint(fingerprint: string, node: Node): string {
  return `castore-root/1;${fingerprint};${formatEntryText(node)}`;
}

/** A secret key that signs roots. No narinfo key, so that neither is used for the other. */
export class RootSigningKey {
  readonly #key: SecretKey;

  private constructor(key: SecretKey) {
    this.#key = key;
  }

  /** Parses `NAME:BASE64`, as for narinfos. Rejects INVALID. */
  static parse(text: string): RootSigningKey {
    return new RootSigningKey(SecretKey.parse(text));
  }

  get publicKey(): PublicKey {
    return this.#key.publicKey;
  }

  sign(path: Fingerprinted, node: Node): RootSignature {
    return this.#sign(formatRootFingerprint(path, node));
  }

  /** Says of an image and its roots that they belong together, and each root to its path. */
  signImage(image: RootsImage): RootSignature {
    return this.#sign(formatImageFingerprint(image));
  }

  #sign(text: string): RootSignature {
    const signature = this.#key.sign(text);
    return parseRootSignature(`${this.#key.name}:${signature.toString("base64")}`);
  }
}

/** The public keys whose word for a root node is taken. Trusts no narinfo. */
export class TrustedRootKeys {
  readonly keys: readonly PublicKey[];

  private constructor(keys: readonly PublicKey[]) {
    this.keys = keys;
  }

  /** Parses keys of the form `NAME:BASE64`. Rejects INVALID. */
  static parse(texts: readonly string[]): TrustedRootKeys {
    return new TrustedRootKeys(texts.map((text) => PublicKey.parse(text)));
  }

  /** Whether the key `text`, as `NAME:BASE64`, is trusted. */
  has(text: string): boolean {
    return this.keys.some((key) => key.text === text);
  }

  /** These keys without those for which `isBarred`. */
  except(isBarred: (text: string) => boolean): TrustedRootKeys {
    return new TrustedRootKeys(this.keys.filter((key) => !isBarred(key.text)));
  }

  /** The first trusted key that signed this root, or undefined. */
  verify(path: SignedRoot): PublicKey | undefined {
    const texts = acceptedFingerprints(path).map((text) => rootFingerprint(text, path.node));
    return this.#firstSigner(texts, path.rootSignatures);
  }

  /** The first trusted key that signed this image, or undefined. */
  verifyImage(image: RootsImage, signatures: readonly RootSignature[]): PublicKey | undefined {
    return this.#firstSigner([formatImageFingerprint(image)], signatures);
  }

  #firstSigner(
    texts: readonly string[],
    signatures: readonly RootSignature[],
  ): PublicKey | undefined {
    for (const signature of signatures) {
      const key = signerOf(this.keys, texts, signature);
      if (key !== undefined) return key;
    }
    return undefined;
  }
}
