import {
  byteStringOfText,
  CastoreError,
  decodeEntry,
  encodeEntry,
  type Node,
} from "@castore/castore";
import type { ContentAddress } from "./content-address.ts";
import { parseNamedBytes, SIGNATURE_BYTES } from "./ed25519-key.ts";
import { HASH_BYTES, narHashOf, nixHashAlgorithm, nixHashBytes, nixHashOf } from "./nix-hash.ts";
import type { PathInfo } from "./path-info.ts";
import { type Signature, signatureOf } from "./signature.ts";
import { parseRootSignature, type RootSignature } from "./signed-root.ts";
import {
  isStorePathName,
  NIX_STORE_DIR,
  STORE_HASH_BYTES,
  type StoreDir,
  type StorePath,
  storeHashBytes,
  storeHashOf,
  storePathFault,
  storePathHash,
  storePathName,
} from "./store-path.ts";
import { MessageFields, MessageWriter } from "./wire-message.ts";

/** Most bytes of a path info's encoding: what a narinfo at its limit takes, twice. */
export const PATH_INFO_BYTES_MAX = 1 << 22;

const DRV = ".drv";

/** What the enum CA.Hash stands for, by number. */
const CA_TYPES = [
  { method: "nar", algorithm: "sha256" },
  { method: "nar", algorithm: "sha1" },
  { method: "nar", algorithm: "sha512" },
  { method: "nar", algorithm: "md5" },
  { method: "text", algorithm: "sha256" },
  { method: "flat", algorithm: "sha1" },
  { method: "flat", algorithm: "md5" },
  { method: "flat", algorithm: "sha256" },
  { method: "flat", algorithm: "sha512" },
] as const;

/** The encoding as snix's PathInfo, without root signatures (proto/pathinfo.proto). */
export function encodePathInfo(pathInfo: PathInfo): Uint8Array {
  const name = byteStringOfText(pathInfo.storePath);
  const writer = new MessageWriter().bytes(1, encodeEntry({ name, node: pathInfo.node }));
  for (const reference of pathInfo.references) {
    writer.bytes(2, storeHashBytes(storePathHash(reference)));
  }
  return writer.bytes(3, encodeNarInfoMessage(pathInfo)).finish();
}

function encodeNarInfoMessage(pathInfo: PathInfo): Uint8Array {
  const { narSize, narHash, signatures, references, deriver, ca } = pathInfo;
  const writer = new MessageWriter().uint(1, narSize).bytes(2, nixHashBytes(narHash));
  for (const signature of signatures) writer.bytes(3, encodeSignature(signature));
  for (const reference of references) writer.text(4, reference);
  if (deriver !== undefined) {
    const name = storePathName(deriver).slice(0, -DRV.length);
    const digest = storeHashBytes(storePathHash(deriver));
    writer.bytes(5, new MessageWriter().text(1, name).bytes(2, digest).finish());
  }
  if (ca !== undefined) writer.bytes(6, encodeContentAddress(ca));
  return writer.finish();
}

function encodeSignature(signature: Signature | RootSignature): Uint8Array {
  const { name, bytes } = parseNamedBytes(signature, SIGNATURE_BYTES, "signature");
  return new MessageWriter().text(1, name).bytes(2, bytes).finish();
}

function encodeContentAddress({ method, hash }: ContentAddress): Uint8Array {
  const algorithm = nixHashAlgorithm(hash);
  const type = CA_TYPES.findIndex((ca) => ca.method === method && ca.algorithm === algorithm);
  return new MessageWriter().uint(1, type).bytes(2, nixHashBytes(hash)).finish();
}

/**
 * Decodes snix's PathInfo of a store in `storeDir`; there are no root signatures. Rejects INVALID
 * for the first fault in snix's order and by snix's name for it, EXHAUSTED over
 * PATH_INFO_BYTES_MAX.
 */
export function decodePathInfo(bytes: Uint8Array, storeDir: StoreDir = NIX_STORE_DIR): PathInfo {
  if (bytes.byteLength > PATH_INFO_BYTES_MAX) {
    const fault = `of ${bytes.byteLength} bytes: the limit is ${PATH_INFO_BYTES_MAX}`;
    throw new CastoreError("EXHAUSTED", `path info ${fault}`);
  }
  const fields = new MessageFields(bytes, "path info");
  const narInfo = fields.message(3, "path info, narinfo");
  if (narInfo === undefined) throw invalid("NarInfoFieldMissing");
  const references = decodeReferences(fields.all(2), narInfo.texts(4));
  const { storePath, node } = decodeRoot(fields.last(1));
  const narHash = narInfo.bytes(2);
  if (narHash.byteLength !== HASH_BYTES.sha256) {
    throw invalid(`InvalidNarSha256DigestLen(${narHash.byteLength})`);
  }
  return {
    storeDir,
    storePath,
    node,
    narHash: narHashOf(narHash),
    narSize: narInfo.uint(1),
    references,
    deriver: decodeDeriver(narInfo.message(5, "path info, deriver")),
    signatures: narInfo.all(3).map(decodeSignature),
    ca: decodeContentAddress(narInfo.message(6, "path info, ca")),
    rootSignatures: [],
  };
}

function decodeReferences(hashes: readonly Uint8Array[], names: readonly string[]) {
  hashes.forEach(({ byteLength }, index) => {
    if (byteLength !== STORE_HASH_BYTES) {
      throw invalid(`InvalidReferenceDigestLen(${index}, ${byteLength})`);
    }
  });
  if (hashes.length !== names.length) {
    throw invalid(`InconsistentNumberOfReferences(${hashes.length}, ${names.length})`);
  }
  return hashes.map((hash, index): StorePath => {
    const name = names[index] ?? "";
    const fault = storePathFault(name);
    if (fault !== undefined) {
      throw invalid(`InvalidNarinfoReferenceName(${index}, ${shown(name)}): ${fault}`);
    }
    const storePath = name as StorePath;
    if (storePathHash(storePath) !== storeHashOf(hash)) {
      const both = `${storeHashOf(hash)}, ${storePathHash(storePath)}`;
      throw invalid(`InconsistentNarinfoReferenceNameDigest(${index}, ${both})`);
    }
    return storePath;
  });
}

function decodeRoot(bytes: Uint8Array | undefined): { storePath: StorePath; node: Node } {
  if (bytes === undefined) throw invalid("NoEntryPresent");
  const { name, node } = decodeRootEntry(bytes);
  const fault = storePathFault(name);
  if (fault !== undefined) throw invalid(`InvalidNodeName(${shown(name)}, ${fault})`);
  return { storePath: name as StorePath, node };
}

function decodeRootEntry(bytes: Uint8Array) {
  try {
    return decodeEntry(bytes);
  } catch (cause) {
    throw invalid(`InvalidRootNode(${cause instanceof Error ? cause.message : ""})`, cause);
  }
}

function decodeDeriver(fields: MessageFields | undefined): StorePath | undefined {
  if (fields === undefined) return undefined;
  const hash = fields.bytes(2);
  if (hash.byteLength !== STORE_HASH_BYTES) throw invalid("InvalidDeriverField(Length)");
  const name = fields.text(1);
  if (name === "" || !isStorePathName(name + DRV)) {
    throw invalid(`InvalidDeriverField(InvalidName): ${shown(name)}`);
  }
  return `${storeHashOf(hash)}-${name}${DRV}` as StorePath;
}

function decodeSignature(bytes: Uint8Array, index: number): Signature {
  const fields = new MessageFields(bytes, `path info, signature ${index}`);
  const data = fields.bytes(2);
  if (data.byteLength !== SIGNATURE_BYTES) {
    throw invalid(`InvalidSignature(${index}, InvalidSignatureLen(${data.byteLength}))`);
  }
  return signatureOf(fields.text(1), data);
}

function decodeContentAddress(fields: MessageFields | undefined): ContentAddress | undefined {
  if (fields === undefined) return undefined;
  const number = fields.uint(1);
  const type = CA_TYPES[number];
  if (type === undefined) throw invalid(`InvalidCaField(UnknownHashType(${number}))`);
  const { method, algorithm } = type;
  const hash = fields.bytes(2);
  if (hash.byteLength !== HASH_BYTES[algorithm]) {
    const fault = `InvalidReferenceDigestLen(${hash.byteLength}, ${method} ${algorithm})`;
    throw invalid(`InvalidCaField(${fault})`);
  }
  return { method, hash: nixHashOf(algorithm, hash) };
}

/** The encoding with the root signatures beside it (proto/signed_pathinfo.proto). */
export function encodeSignedPathInfo(pathInfo: PathInfo): Uint8Array {
  const writer = new MessageWriter().bytes(1, encodePathInfo(pathInfo));
  for (const signature of pathInfo.rootSignatures) writer.bytes(2, encodeSignature(signature));
  return writer.finish();
}

/** Decodes what `encodeSignedPathInfo` encoded. Rejects as `decodePathInfo` does. */
export function decodeSignedPathInfo(
  bytes: Uint8Array,
  storeDir: StoreDir = NIX_STORE_DIR,
): PathInfo {
  const fields = new MessageFields(bytes, "signed path info");
  const pathInfo = decodePathInfo(fields.bytes(1), storeDir);
  const rootSignatures = fields
    .all(2)
    .map(
      (signature, index): RootSignature => parseRootSignature(decodeSignature(signature, index)),
    );
  return { ...pathInfo, rootSignatures };
}

function shown(text: string): string {
  return JSON.stringify(text.slice(0, 256));
}

function invalid(fault: string, cause?: unknown): CastoreError {
  return new CastoreError("INVALID", `path info: ${fault}`, { cause });
}
