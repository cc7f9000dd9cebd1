import { readFileSync } from "node:fs";
import { zstdDecompress } from "@castore/castore";

const directory = new URL("../../../test/vectors/", import.meta.url);

/** One narinfo of the vectors. */
export interface NarInfoVector {
  readonly name: string;
  readonly text: string;
  readonly fingerprint: string;
  readonly sigs: readonly { readonly sig: string; readonly valid: boolean | null }[];
  readonly expect: {
    readonly flags?: readonly string[];
    readonly roundtrip?: boolean;
    readonly compression?: string | null;
    readonly deriver?: null;
    readonly references?: readonly string[];
    readonly ca?: CaVector;
  };
}

export interface CaVector {
  readonly mode: "nar" | "flat" | "text";
  readonly algo: "md5" | "sha1" | "sha256" | "sha512";
  readonly hex: string;
}

export interface NarVector {
  readonly hex: string;
  readonly md5: string;
  readonly sha1: string;
  readonly sha256: string;
  readonly sha512: string;
  readonly nar_hash_nixbase32: string;
  /** The key of its root in `entries`. */
  readonly entry?: string;
  readonly listing?: string;
  readonly seek_test_offsets?: readonly number[];
}

/** The keys of test/vectors/snix-castore.json that Nix's formats are tested by. */
export interface Vectors {
  readonly nixbase32: {
    readonly alphabet: string;
    readonly pairs: readonly (readonly [string, string])[];
    readonly invalid: readonly (readonly [string, string])[];
    readonly decode_len: { readonly [length: string]: number };
    readonly encode_len: { readonly [length: string]: number };
  };
  readonly nar_str: readonly (readonly [string, { digest: string; suffix: string } | null])[];
  readonly outhash_str: readonly (readonly [string, { digest: string; type: string } | null])[];
  readonly store_paths: {
    readonly ok: readonly { s: string; digest?: string; name?: string }[];
    readonly bad: readonly (readonly [string, string])[];
    readonly sorted_order: readonly string[];
    readonly from_absolute_path_full: readonly (readonly [string, string])[];
  };
  readonly ca_paths: {
    readonly known: { readonly [what: string]: string };
    readonly derived_import_path: {
      readonly [what: string]: { name: string; store_path: string; ca: string };
    };
  };
  readonly ca_strings: readonly (readonly [string, CaVector])[];
  readonly ca_enum: { readonly [name: string]: number };
  readonly nars: { readonly [name: string]: NarVector };
  readonly nar_wrong_size_nodes: readonly { readonly entry: string }[];
  readonly entries: { readonly [name: string]: { readonly base64url: string } };
  readonly nars_invalid_derived: readonly { readonly name: string; readonly hex?: string }[];
  readonly nars_ca_ingest: {
    readonly [outcome in "ok" | "hash_mismatch" | "type_mismatch"]: readonly (readonly [
      string,
      CaVector["mode"],
      CaVector["algo"],
      string,
    ])[];
  };
  readonly nixhash_examples: {
    readonly sha1_hex: string;
    readonly forms: readonly string[];
    readonly md5_hex: string;
    readonly md5_forms: readonly string[];
  };
  readonly narinfos: readonly NarInfoVector[];
  readonly narinfo_corpus: { readonly entries: number };
  readonly nar_bridge: { readonly [what: string]: string };
  readonly trusted_keys: { readonly [name: string]: string };
  readonly verify_cases: readonly {
    key: string;
    fingerprint: string;
    sig: string;
    raw_sig_valid: boolean;
    key_verify: boolean;
  }[];
  readonly verifying_key_parse: {
    readonly ok: readonly (readonly [string, string])[];
    readonly fail: readonly string[];
  };
  readonly signature_parse_fail: readonly string[];
  readonly signing: readonly {
    name: string;
    keypair: string;
    verifying_key: string;
    fingerprint: string;
    signature: string;
  }[];
  readonly keypair_parse_fail: readonly string[];
  readonly pathinfos: { readonly [name: string]: { proto_hex: string; redb_key_hex: string } };
  readonly pathinfo_validation: readonly (readonly [string, string])[];
  readonly service_urls: { readonly pathinfo: readonly (readonly [string, 0 | 1])[] };
}

export const vectors: Vectors = JSON.parse(
  readFileSync(new URL("snix-castore.json", directory), "utf8"),
);

/** The 978 narinfos of cache.nixos.org. */
export function narInfoCorpus(): readonly string[] {
  const compressed = readFileSync(new URL("cache-nixos-org-narinfos.zst", directory));
  const texts = Buffer.from(zstdDecompress(compressed, 1 << 22))
    .toString()
    .split("\n\n");
  return texts.filter((text) => text !== "").map((text) => `${text}\n`);
}

export const CACHE_NIXOS_ORG_KEY = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
