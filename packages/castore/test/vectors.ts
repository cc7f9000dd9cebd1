import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

/** The recorded facts of snix, test/vectors/snix-castore.json: only what castore's tests read. */
export interface Vectors {
  readonly blobs: Readonly<Record<string, BlobVector>>;
  readonly digests: Readonly<Record<string, string>>;
  readonly directories: Readonly<
    Record<string, Readonly<Record<"rust" | "spec", DirectoryVector>>>
  >;
  readonly directory_size_proto: readonly { json: DirectoryJson; size: string | null }[];
  readonly directory_validation: readonly {
    name: string;
    json: DirectoryJson;
    ok?: boolean;
    err?: string;
  }[];
  readonly directory_streams: Readonly<
    Record<"leaves_to_root" | "root_to_leaves", readonly StreamVector[]>
  >;
  readonly symlink_targets: FaultVectors & { ok_hex: string[] };
  readonly path_components: FaultVectors & { check_order: string };
  readonly castore_paths: {
    parse_ok: string[];
    from_host_path: [string, string, boolean][];
    from_host_path_fail: [string, boolean][];
  };
  readonly entries: Readonly<Record<string, EntryVector>>;
  readonly stat_blob_responses: Readonly<
    Record<string, { proto_hex: string; chunks?: { digest: string; size: number }[] }>
  >;
  readonly fastcdc: { cases: FastcdcVector[] };
  readonly object_store_keys: Readonly<Record<string, string>>;
  readonly object_store_dirs_payload: Readonly<Record<string, string>>;
  readonly service_urls: Readonly<
    Record<
      "blob" | "directory" | "pathinfo" | "grpc",
      readonly (readonly [string, string | 0 | 1])[]
    >
  >;
}

/** Names of directories in order, and what snix says to them. */
export type StreamVector = readonly [names: string[] | string, verdict: string];

export interface BlobVector {
  readonly len: number;
  readonly hex?: string;
  readonly generator?: string;
  readonly blake3_hex: string;
  readonly digest_string: string;
  readonly chunks?: readonly { hex: string; size: number; blake3_hex: string }[];
}

export interface DirectoryVector {
  readonly json: DirectoryJson;
  readonly proto_hex: string;
  readonly digest_hex: string;
  readonly digest_string: string;
  readonly size: number;
}

export interface DirectoryJson {
  readonly directories?: readonly PointerJson[];
  readonly files?: readonly (PointerJson & { readonly executable?: boolean })[];
  readonly symlinks?: readonly { readonly name: string; readonly target: string }[];
}

export interface PointerJson {
  readonly name: string;
  readonly digest?: string;
  readonly size: string | number;
}

export interface FaultVectors {
  readonly ok: readonly string[];
  readonly bad: readonly (readonly [string, string])[];
}

export interface EntryVector {
  readonly json: Readonly<Record<string, unknown>>;
  readonly proto_hex: string;
  readonly base64url: string;
}

export interface FastcdcVector {
  readonly name: string;
  readonly generator: string;
  readonly len: number;
  readonly blake3_hex: string;
  readonly avg: number;
  readonly min: number;
  readonly max: number;
  readonly raw_chunks: readonly { offset: number; size: number; digest: string }[];
  readonly raw_chunks_total?: number;
  readonly blob_index_proto_hex?: string;
  readonly blob_index_proto_blake3?: string;
}

const path = new URL("../../../test/vectors/snix-castore.json", import.meta.url);

export const vectors: Vectors = JSON.parse(readFileSync(path, "utf8"));

/** The value under `key`, which must be there. */
export function vector<T>(values: Readonly<Record<string, T>>, key: string): T {
  const value = values[key];
  if (value === undefined) throw new Error(`the vectors have no ${key}`);
  return value;
}

/** The bytes that a "generator" of the vectors describes. */
export function generate(generator: string, len: number): Buffer {
  if (generator === "empty") return Buffer.alloc(0);
  if (generator === "prng") return prngBytes(len);
  if (generator.endsWith("of 0x00")) return Buffer.alloc(len);
  if (generator === "BLOB_B" || generator.startsWith("bytes 0x00..0xfe")) {
    return Buffer.from(Uint8Array.from({ length: len }, (_, i) => i % 255));
  }
  return Buffer.from(generator, "hex");
}

/** Pseudo-random bytes as the vectors define them: the same on every machine. */
export function prngBytes(len: number, label = "snix-vectors"): Buffer {
  const blocks: Buffer[] = [];
  const counter = Buffer.alloc(8);
  for (let i = 0; i * 32 < len; i++) {
    counter.writeBigUInt64LE(BigInt(i));
    blocks.push(createHash("sha256").update(label).update(counter).digest());
  }
  return Buffer.concat(blocks).subarray(0, len);
}

/** The contents of the blob called `name` in the vectors. */
export function blobVector(name: string): Buffer {
  const { hex, generator, len } = vector(vectors.blobs, name);
  return hex === undefined ? generate(generator ?? "", len) : Buffer.from(hex, "hex");
}
