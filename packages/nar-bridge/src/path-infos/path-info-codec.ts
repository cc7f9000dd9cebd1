import {
  byteStringOf,
  bytesField,
  CastoreError,
  decodeEntry,
  encodeEntry,
  messageField,
  type Node,
  uintField,
  WireFields,
} from "@castore/castore";
import type { ContentAddress } from "../nix/content-address.ts";
import { parseNamedBytes, SIGNATURE_BYTES } from "../nix/ed25519-key.ts";
import {
  HASH_BYTES,
  narHashOf,
  nixHashAlgorithm,
  nixHashBytes,
  nixHashOf,
} from "../nix/nix-hash.ts";
import { type Signature, signatureOf } from "../nix/signature.ts";
import { parseRootSignature, type RootSignature } from "../nix/signed-root.ts";
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
  storePathOf,
} from "../nix/store-path.ts";
import type { PathInfo } from "./path-info.ts";

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
  const { storePath, node, references } = pathInfo;
  return Buffer.concat([
    messageField(1, encodeEntry({ name: storePath, node })),
    ...references.map((path) => messageField(2, storeHashBytes(storePathHash(path)))),
    messageField(3, encodeNarInfoMessage(pathInfo)),
  ]);
}

function encodeNarInfoMessage(pathInfo: PathInfo): Uint8Array {
  const { narSize, narHash, signatures, references, deriver, ca } = pathInfo;
  return Buffer.concat([
    uintField(1, narSize),
    bytesField(2, nixHashBytes(narHash)),
    ...signatures.map((signature) => messageField(3, encodeSignature(signature))),
    ...references.map((path) => messageField(4, Buffer.from(path))),
    ...(deriver === undefined ? [] : [messageField(5, encodeDeriver(deriver))]),
    ...(ca === undefined ? [] : [messageField(6, encodeContentAddress(ca))]),
  ]);
}

function encodeDeriver(deriver: StorePath): Uint8Array {
  const name = storePathName(deriver).slice(0, -DRV.length);
  const hash = storeHashBytes(storePathHash(deriver));
  return Buffer.concat([bytesField(1, Buffer.from(name)), bytesField(2, hash)]);
}

function encodeSignature(signature: Signature | RootSignature): Uint8Array {
  const { name, bytes } = parseNamedBytes(signature, SIGNATURE_BYTES, "signature");
  return Buffer.concat([bytesField(1, Buffer.from(name)), bytesField(2, bytes)]);
}

function encodeContentAddress({ method, hash }: ContentAddress): Uint8Array {
  const algorithm = nixHashAlgorithm(hash);
  const type = CA_TYPES.findIndex((ca) => ca.method === method && ca.algorithm === algorithm);
  return Buffer.concat([uintField(1, type), bytesField(2, nixHashBytes(hash))]);
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
  const [entries = [], hashes = [], parts = []] = readLists(bytes, 3, "path info");
  if (parts.length === 0) throw invalid("NarInfoFieldMissing");
  const narInfo = readNarInfo(Buffer.concat(parts));
  const references = decodeReferences(hashes, narInfo.names);
  const { storePath, node } = decodeRoot(entries.at(-1));
  if (narInfo.narHash.byteLength !== HASH_BYTES.sha256) {
    throw invalid(`InvalidNarSha256DigestLen(${narInfo.narHash.byteLength})`);
  }
  return {
    storeDir,
    storePath,
    node,
    narHash: narHashOf(narInfo.narHash),
    narSize: narInfo.narSize,
    references,
    deriver: decodeDeriver(narInfo.deriver),
    signatures: narInfo.signatures.map(decodeSignature),
    ca: decodeContentAddress(narInfo.ca),
    rootSignatures: [],
  };
}

const EMPTY: Uint8Array = new Uint8Array(0);

/**
 * The values of fields 1 to `count`, all of them bytes. A message that is given in pieces is one
 * message, so its pieces may be joined.
 */
function readLists(bytes: Uint8Array, count: number, what: string): readonly Uint8Array[][] {
  const lists = Array.from({ length: count }, (): Uint8Array[] => []);
  const fields = new WireFields(bytes, what);
  for (let field = fields.next(); field !== 0; field = fields.next()) {
    if (field <= count) lists[field - 1]?.push(fields.bytes());
    else fields.skip();
  }
  return lists;
}

/** The fields of the message NARInfo, unchecked. */
interface RawNarInfo {
  narSize: number;
  narHash: Uint8Array;
  readonly signatures: Uint8Array[];
  readonly names: string[];
  readonly deriver: Uint8Array[];
  readonly ca: Uint8Array[];
}

function readNarInfo(bytes: Uint8Array): RawNarInfo {
  const raw: RawNarInfo = {
    narSize: 0,
    narHash: EMPTY,
    signatures: [],
    names: [],
    deriver: [],
    ca: [],
  };
  const fields = new WireFields(bytes, "path info, narinfo");
  for (let field = fields.next(); field !== 0; field = fields.next()) {
    if (field === 1) raw.narSize = fields.uint();
    else if (field === 2) raw.narHash = fields.bytes();
    else if (field === 3) raw.signatures.push(fields.bytes());
    else if (field === 4) raw.names.push(byteStringOf(fields.bytes()));
    else if (field === 5) raw.deriver.push(fields.bytes());
    else if (field === 6) raw.ca.push(fields.bytes());
    else fields.skip();
  }
  return raw;
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

function decodeDeriver(parts: readonly Uint8Array[]): StorePath | undefined {
  if (parts.length === 0) return undefined;
  const lists = readLists(Buffer.concat(parts), 2, "path info, deriver");
  const [nameBytes = EMPTY, hash = EMPTY] = lists.map((list) => list.at(-1));
  if (hash.byteLength !== STORE_HASH_BYTES) throw invalid("InvalidDeriverField(Length)");
  const name = byteStringOf(nameBytes);
  if (name.length === 0 || !isStorePathName(name + DRV)) {
    throw invalid(`InvalidDeriverField(InvalidName): ${shown(name)}`);
  }
  return storePathOf(hash, name + DRV);
}

function decodeSignature(bytes: Uint8Array, index: number): Signature {
  const lists = readLists(bytes, 2, `path info, signature ${index}`);
  const [name = EMPTY, data = EMPTY] = lists.map((list) => list.at(-1));
  if (data.byteLength !== SIGNATURE_BYTES) {
    throw invalid(`InvalidSignature(${index}, InvalidSignatureLen(${data.byteLength}))`);
  }
  return signatureOf(byteStringOf(name), data);
}

function decodeContentAddress(parts: readonly Uint8Array[]): ContentAddress | undefined {
  if (parts.length === 0) return undefined;
  let number = 0;
  let hash = EMPTY;
  const fields = new WireFields(Buffer.concat(parts), "path info, ca");
  for (let field = fields.next(); field !== 0; field = fields.next()) {
    if (field === 1) number = fields.uint();
    else if (field === 2) hash = fields.bytes();
    else fields.skip();
  }
  const type = CA_TYPES[number];
  if (type === undefined) throw invalid(`InvalidCaField(UnknownHashType(${number}))`);
  const { method, algorithm } = type;
  if (hash.byteLength !== HASH_BYTES[algorithm]) {
    const fault = `InvalidReferenceDigestLen(${hash.byteLength}, ${method} ${algorithm})`;
    throw invalid(`InvalidCaField(${fault})`);
  }
  return { method, hash: nixHashOf(algorithm, hash) };
}

/** The encoding with the root signatures beside it (proto/signed_pathinfo.proto). */
export function encodeSignedPathInfo(pathInfo: PathInfo): Uint8Array {
  return Buffer.concat([
    messageField(1, encodePathInfo(pathInfo)),
    ...pathInfo.rootSignatures.map((signature) => messageField(2, encodeSignature(signature))),
  ]);
}

/** Decodes what `encodeSignedPathInfo` encoded. Rejects as `decodePathInfo` does. */
export function decodeSignedPathInfo(
  bytes: Uint8Array,
  storeDir: StoreDir = NIX_STORE_DIR,
): PathInfo {
  const [parts = [], signatures = []] = readLists(bytes, 2, "signed path info");
  const pathInfo = decodePathInfo(Buffer.concat(parts), storeDir);
  const rootSignatures = signatures.map((signature, index) =>
    parseRootSignature(decodeSignature(signature, index)),
  );
  return { ...pathInfo, rootSignatures };
}

function shown(text: string): string {
  return JSON.stringify(text.slice(0, 256));
}

function invalid(fault: string, cause?: unknown): CastoreError {
  return new CastoreError("INVALID", `path info: ${fault}`, { cause });
}
