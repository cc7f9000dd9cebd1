import { createHash, type Hash } from "node:crypto";
import {
  type ByteSource,
  type CallOptions,
  CastoreError,
  type FileObjectStore,
  isCastoreError,
} from "@castore/castore";
import { compress } from "../compression/compression.ts";
import { createNarLayout, type NarServices } from "../nar/nar-layout.ts";
import type { NarInfo } from "../nix/nar-info.ts";
import { decodeNarInfo } from "../nix/nar-info-text.ts";
import { type NixHash, narHashOf, nixHashDigits, nixHashOf } from "../nix/nix-hash.ts";
import { storePathHash } from "../nix/store-path.ts";
import type { PathInfo } from "../path-infos/path-info.ts";

/** How NARs are compressed that an export writes. */
export interface ExportCompression {
  readonly name: "xz" | "zstd";
  readonly level?: number | undefined;
}

/** A NAR in an exported directory, as its narinfo names it. */
export interface ExportedNar {
  readonly url: string;
  readonly compression: string;
  readonly fileHash: NixHash;
  readonly fileSize: number;
}

const SUFFIXES = { xz: ".xz", zstd: ".zst" } as const;
const READ_BYTES = 4 << 20;

/**
 * The path's NAR in `objects`: the one that its narinfo there names, else one that is there without
 * a narinfo, else written now. Rejects CORRUPT where what the store holds is not that NAR.
 */
export async function exportNar(
  pathInfo: PathInfo,
  services: NarServices,
  objects: FileObjectStore,
  { name, level }: ExportCompression,
  options: CallOptions,
): Promise<ExportedNar> {
  const named = await namedNar(pathInfo, objects, options);
  if (named !== undefined) return named;
  const url = `nar/${nixHashDigits(pathInfo.narHash)}.nar${SUFFIXES[name]}`;
  const hash = createHash("sha256");
  const present = await objects.head(url, options);
  if (present !== undefined) {
    await hashObject(objects, url, present.size, hash, options);
    return exported(url, name, hash, present.size);
  }
  let size = 0;
  const nar = checkedNar(pathInfo, services, options);
  async function* file(source: ByteSource) {
    for await (const piece of source) {
      hash.update(piece);
      size += piece.byteLength;
      yield piece;
    }
  }
  await objects.putStream(url, file(compress(name, nar, { level, ...options })), options);
  return exported(url, name, hash, size);
}

function exported(url: string, compression: string, hash: Hash, fileSize: number): ExportedNar {
  return { url, compression, fileHash: nixHashOf("sha256", hash.digest()), fileSize };
}

/** The NAR that the path's narinfo in `objects` names, if it is there. */
async function namedNar(
  { storePath, storeDir, narHash }: PathInfo,
  objects: FileObjectStore,
  options: CallOptions,
): Promise<ExportedNar | undefined> {
  const bytes = await objects.get(`${storePathHash(storePath)}.narinfo`, options);
  if (bytes === undefined) return undefined;
  let narInfo: NarInfo;
  try {
    narInfo = decodeNarInfo(bytes, storeDir);
  } catch (error) {
    if (isCastoreError(error, "INVALID")) return undefined;
    throw error;
  }
  const { url, compression, fileHash, fileSize } = narInfo;
  if (fileHash === undefined || fileSize === undefined) return undefined;
  if (narInfo.narHash !== narHash || !/^nar\/[\w.]+$/.test(url)) return undefined;
  const isThere = (await objects.head(url, options))?.size === fileSize;
  return isThere ? { url, compression, fileHash, fileSize } : undefined;
}

async function* checkedNar(
  { storePath, node, narHash, narSize }: PathInfo,
  services: NarServices,
  options: CallOptions,
): AsyncGenerator<Uint8Array, void, undefined> {
  const layout = await createNarLayout(node, services, options);
  const hash = createHash("sha256");
  for await (const piece of layout.stream(0, layout.size, options)) {
    hash.update(piece);
    yield piece;
  }
  const got = narHashOf(hash.digest());
  if (got === narHash && layout.size === narSize) return;
  throw new CastoreError("CORRUPT", `${storePath}: its NAR has hash ${got}, want ${narHash}`);
}

async function hashObject(
  objects: FileObjectStore,
  key: string,
  size: number,
  hash: Hash,
  options: CallOptions,
): Promise<void> {
  for (let start = 0; start < size; start += READ_BYTES) {
    const range = { start, end: Math.min(size, start + READ_BYTES) };
    const piece = await objects.get(key, { ...options, range });
    if (piece === undefined) throw new CastoreError("INCOMPLETE", `${objects.name}: lost ${key}`);
    hash.update(piece);
  }
}
