import { isContentAddressed, type MaybeContentAddressed } from "./content-address.ts";
import { PublicKey, signerOf } from "./ed25519-key.ts";
import { acceptedFingerprints, type Fingerprinted } from "./fingerprint.ts";
import type { Signature } from "./signature.ts";

/** What a signature may be looked for on: a narinfo or a path info. */
export interface Signed extends Fingerprinted, MaybeContentAddressed {
  readonly signatures: readonly Signature[];
}

/** Why a narinfo counts. Under `content-address`, the CA's hash must be checked on ingest. */
export type Trust =
  | { readonly by: "signature"; readonly key: string }
  | { readonly by: "content-address" };

/** The public keys under whose signatures a narinfo counts. Vouch for no root node. */
export class TrustedKeys {
  readonly keys: readonly PublicKey[];

  private constructor(keys: readonly PublicKey[]) {
    this.keys = keys;
  }

  /** Parses keys of the form `NAME:BASE64`. Rejects INVALID. */
  static parse(texts: readonly string[]): TrustedKeys {
    return new TrustedKeys(texts.map((text) => PublicKey.parse(text)));
  }

  /** The name of the first trusted key that signed `path`, or undefined. */
  verify(path: Signed): string | undefined {
    const fingerprints = acceptedFingerprints(path);
    for (const signature of path.signatures) {
      const key = signerOf(this.keys, fingerprints, signature);
      if (key !== undefined) return key.name;
    }
    return undefined;
  }

  /** Why `path` counts: a trusted key signed it, or its path follows from its CA; or undefined. */
  trusts(path: Signed): Trust | undefined {
    const key = this.verify(path);
    if (key !== undefined) return { by: "signature", key };
    return isContentAddressed(path) ? { by: "content-address" } : undefined;
  }
}
