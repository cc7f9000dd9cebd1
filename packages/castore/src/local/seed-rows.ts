import { isCastoreError } from "../castore-error.ts";
import { DIGEST_BYTES, digestBytes, digestOf } from "../model/digest.ts";
import { WireReader } from "../model/wire-reader.ts";
import { varintLength, WireWriter } from "../model/wire-writer.ts";
import { type ChunkPlace, decodeChunkPlace, encodeChunkPlace } from "./chunk-rows.ts";
import { afterPrefix, type StoreIndex, visitRows } from "./store-index.ts";

/** A file outside the store that holds a chunk, or did when it was looked at. */
export interface SeedPlace {
  readonly key: Uint8Array;
  readonly path: string;
  readonly place: ChunkPlace;
}

/** Longer paths are not indexed: they are keys. */
export const SEED_PATH_BYTES_MAX = 1500;

const FILE_TAG_BYTES = 16;

/** What tells whether a file has changed. */
export interface FileStamp {
  readonly mtimeNs: bigint;
  readonly size: bigint;
  readonly ino: bigint;
}

export function sameStamp(a: FileStamp, b: FileStamp): boolean {
  return a.mtimeNs === b.mtimeNs && a.size === b.size && a.ino === b.ino;
}

/** A row of `seed-files`: a file with its chunks, or a directory of the seed with none. */
export interface SeedFile extends FileStamp {
  readonly chunks: readonly Uint8Array[];
}

const SEED_FILE_HEAD_BYTES = 24;

export function encodeSeedFile({ mtimeNs, size, ino, chunks }: SeedFile): Buffer {
  const head = Buffer.alloc(SEED_FILE_HEAD_BYTES);
  head.writeBigInt64LE(mtimeNs, 0);
  head.writeBigUInt64LE(size, 8);
  head.writeBigUInt64LE(ino, 16);
  return Buffer.concat([head, ...chunks]);
}

/** A row that is cut short is of a file that was never looked at. */
export function decodeSeedFile(row: Buffer): SeedFile {
  if (row.length < SEED_FILE_HEAD_BYTES) return { mtimeNs: -1n, size: 0n, ino: 0n, chunks: [] };
  const chunks: Uint8Array[] = [];
  for (let at = SEED_FILE_HEAD_BYTES; at + DIGEST_BYTES <= row.length; at += DIGEST_BYTES) {
    chunks.push(Buffer.from(row.subarray(at, at + DIGEST_BYTES)));
  }
  return {
    mtimeNs: row.readBigInt64LE(0),
    size: row.readBigUInt64LE(8),
    ino: row.readBigUInt64LE(16),
    chunks,
  };
}

/** Key of `seeds`: the chunk, then what stands for the file. */
function seedKey(chunk: Uint8Array, path: string): Buffer {
  const tag = digestBytes(digestOf(Buffer.from(path))).subarray(0, FILE_TAG_BYTES);
  return Buffer.concat([chunk, tag]);
}

/** Within a transaction. */
export function putSeedFile(
  { rows }: StoreIndex,
  path: string,
  stamp: FileStamp,
  places: readonly (readonly [chunk: Uint8Array, place: ChunkPlace])[],
): void {
  const pathBytes = Buffer.from(path);
  for (const [chunk, place] of places) {
    const encoded = encodeChunkPlace(place);
    const writer = new WireWriter(
      varintLength(pathBytes.length) + pathBytes.length + encoded.byteLength,
    );
    writer.bytes(pathBytes);
    for (const byte of encoded) writer.byte(byte);
    rows.seeds.putSync(seedKey(chunk, path), writer.buffer);
  }
  const chunks = places.map(([chunk]) => chunk);
  rows["seed-files"].putSync(pathBytes, encodeSeedFile({ ...stamp, chunks }));
}

/** Forgets the file or directory and all below it. Within a transaction. Returns how many files. */
export function deleteSeeds({ rows }: StoreIndex, path: string): number {
  const gone: (readonly [Buffer, SeedFile])[] = [];
  const meet = (key: Buffer, row: Buffer): boolean => {
    gone.push([Buffer.from(key), decodeSeedFile(row)]);
    return true;
  };
  const own = Buffer.from(path);
  visitRows(rows["seed-files"], { start: own, end: afterPrefix(own) }, (key, row) =>
    key.length === own.length ? meet(key, row) : true,
  );
  const below = Buffer.from(`${path}/`);
  visitRows(rows["seed-files"], { start: below, end: afterPrefix(below) }, meet);
  for (const [key, { chunks }] of gone) {
    for (const chunk of chunks) rows.seeds.removeSync(seedKey(chunk, key.toString()));
    rows["seed-files"].removeSync(key);
  }
  return gone.filter(([, { chunks }]) => chunks.length > 0).length;
}

/** Where the chunk was seen outside the store, at most `countMax` places. */
export function seedPlaces({ rows }: StoreIndex, chunk: Uint8Array, countMax: number): SeedPlace[] {
  const places: SeedPlace[] = [];
  if (countMax === 0) return places;
  visitRows(rows.seeds, { start: chunk, end: afterPrefix(chunk) }, (key, row) => {
    const seed = decodeSeed(row);
    if (seed !== undefined) places.push({ key: Buffer.from(key), ...seed });
    return places.length < countMax;
  });
  return places;
}

/** The row of `seeds`; undefined where it is damaged in a way that shows. */
export function decodeSeed(row: Buffer): Omit<SeedPlace, "key"> | undefined {
  try {
    const pathBytes = Buffer.from(new WireReader(row, "seed").bytes());
    const place = decodeChunkPlace(row.subarray(varintLength(pathBytes.length) + pathBytes.length));
    return place && { path: pathBytes.toString(), place };
  } catch (error) {
    if (isCastoreError(error, "INVALID")) return undefined;
    throw error;
  }
}
