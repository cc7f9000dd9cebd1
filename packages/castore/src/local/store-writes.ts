import { CastoreError } from "../castore-error.ts";
import { digestOfBytes } from "../model/digest.ts";
import { encodeFileBlob, encodeInlineBlob, INLINE_BYTES_MAX } from "./blob-row.ts";
import { type ChunkRows, putChunkRows } from "./chunk-rows.ts";
import { afterPrefix, peekRow, type Rows, type StoreIndex, visitRows } from "./store-index.ts";

/** Rows that hold objects under their digest. */
export type ObjectRows = "blobs" | "directories";

/** One change to the index. Bytes are the writer's from then on. */
export type StoreWrite =
  | BlobWrite
  | {
      readonly type: "directories";
      readonly rows: readonly (readonly [digest: Uint8Array, bytes: Uint8Array])[];
      /** Directories that are referred to and not among `rows`: they must be there. */
      readonly children: readonly Uint8Array[];
    }
  | { readonly type: "roots"; readonly records: readonly RootRow[] }
  | {
      readonly type: "pin";
      readonly key: Uint8Array;
      readonly row: Uint8Array;
      readonly sees: readonly SeenObject[];
    }
  | { readonly type: "delete-pin"; readonly key: Uint8Array }
  | { readonly type: "delete-root"; readonly key: Uint8Array }
  | { readonly type: "rows"; readonly rows: readonly TableRowWrite[] }
  | { readonly type: "delete-row"; readonly key: Uint8Array }
  | { readonly type: "touch"; readonly keys: readonly Uint8Array[] }
  | {
      readonly type: "see";
      readonly rows: ObjectRows;
      readonly digest: Uint8Array;
      /** Chunks of one more normal form of the blob, if it is there. */
      readonly chunks?: ChunkRows | undefined;
    }
  | { readonly type: "drop-seed"; readonly key: Uint8Array };

export interface BlobWrite {
  readonly type: "blob";
  readonly digest: Uint8Array;
  readonly size: number;
  readonly chunks: ChunkRows | undefined;
  /** All its bytes, wherever they are few. */
  readonly contents?: Uint8Array | undefined;
  /** The file in `tmp/` that has its bytes durably; without either, the blob's file is there. */
  readonly temporary?: string | undefined;
}

export interface SeenObject {
  readonly rows: ObjectRows;
  readonly digest: Uint8Array;
}

export interface RootRow {
  readonly key: Uint8Array;
  readonly row: Uint8Array;
  /** What must be there: rows of `directories` or `blobs`. */
  readonly needs?: SeenObject;
}

export interface TableRowWrite {
  readonly key: Uint8Array;
  readonly row: Uint8Array;
  readonly digest?: Uint8Array;
}

/** Counters in `meta`: u48, little endian. */
export const META_SIZE = Buffer.from("size");
export const META_TICK = Buffer.from("tick");
export const META_EPOCH = Buffer.from("epoch");
export const META_LOG = Buffer.from("log");
/** Not a counter: who collects, while anyone does. */
export const META_COLLECTOR = Buffer.from("collector");

const NOTHING = Buffer.alloc(0);

export function readCounter(meta: Rows, key: Uint8Array): number {
  const value = peekRow(meta, key);
  return value === undefined ? 0 : value.readUIntLE(0, 6);
}

export function writeCounter(meta: Rows, key: Uint8Array, count: number): void {
  const value = Buffer.alloc(6);
  value.writeUIntLE(Math.max(0, count), 0, 6);
  meta.putSync(key, value);
}

/**
 * Does `write` within the running transaction. Returns what its sender wants to know: for a delete
 * whether there was a row, for "see" whether the object is there. Throws, before it
 * changed anything, where the write is refused.
 */
export function applyWrite(index: StoreIndex, write: StoreWrite): boolean {
  const { rows } = index;
  switch (write.type) {
    case "blob":
      return applyBlob(index, write);
    case "directories":
      return applyDirectories(index, write);
    case "roots":
      return applyRoots(index, write.records);
    case "pin":
      for (const seen of write.sees) see(rows, seen.rows, seen.digest);
      rows.pins.putSync(write.key, write.row);
      logRoot(rows, "pin", write.key);
      return true;
    case "delete-pin":
      return rows.pins.removeSync(write.key);
    case "delete-root":
      rows.used.removeSync(write.key);
      return rows.roots.removeSync(write.key);
    case "rows":
      for (const row of write.rows) putTableRow(rows, row);
      return true;
    case "delete-row":
      return deleteTableRow(rows, write.key);
    case "touch":
      return applyTouch(rows, write.keys);
    case "see":
      if (!see(rows, write.rows, write.digest)) return false;
      if (write.chunks !== undefined) putChunkRows(index, write.digest, write.chunks);
      return true;
    case "drop-seed":
      return rows.seeds.removeSync(write.key);
  }
}

/** What an object with this row is counted as in the store's size. */
export function countedRowBytes(kind: ObjectRows, row: Buffer): number {
  if (kind === "directories") return countedBytes(row.byteLength);
  return countedBytes(row[0] === 1 ? row.readUIntLE(1, 6) : row.byteLength - 1);
}

function countedBytes(bytes: number): number {
  return bytes + 64;
}

function addSize(rows: StoreIndex["rows"], bytes: number): void {
  writeCounter(rows.meta, META_SIZE, readCounter(rows.meta, META_SIZE) + bytes);
}

function applyBlob(index: StoreIndex, write: BlobWrite): boolean {
  const { rows } = index;
  const { contents, size } = write;
  const isRow = contents !== undefined && size <= INLINE_BYTES_MAX;
  const row = isRow ? encodeInlineBlob(contents) : encodeFileBlob(size);
  if (rows.unlinks.doesExist(write.digest)) rows.unlinks.removeSync(write.digest);
  if (!rows.blobs.doesExist(write.digest)) addSize(rows, countedBytes(size));
  // A row that is there already is compared, not written: it is damaged if it differs.
  if (!peekRow(rows.blobs, write.digest)?.equals(row)) rows.blobs.putSync(write.digest, row);
  rows.condemned.removeSync(condemnedKey("blobs", write.digest));
  if (write.chunks !== undefined) putChunkRows(index, write.digest, write.chunks);
  return true;
}

function applyDirectories(
  { rows }: StoreIndex,
  write: StoreWrite & { type: "directories" },
): boolean {
  for (const child of write.children) {
    if (!rows.directories.doesExist(child)) {
      throw new CastoreError("INCOMPLETE", `directory ${digestOfBytes(child)} is missing`);
    }
  }
  for (const child of write.children) seeIfCondemned(rows, "directories", child);
  let added = 0;
  for (const [digest, bytes] of write.rows) {
    if (rows.directories.doesExist(digest)) {
      seeIfCondemned(rows, "directories", digest);
    } else {
      rows.directories.putSync(digest, bytes);
      added += countedBytes(bytes.byteLength);
    }
  }
  if (added > 0) addSize(rows, added);
  return true;
}

function applyRoots({ rows }: StoreIndex, records: readonly RootRow[]): boolean {
  for (const { key, needs } of records) {
    if (needs !== undefined && !rows[needs.rows].doesExist(needs.digest)) {
      const kind = needs.rows === "blobs" ? "blob" : "directory";
      const name = `root ${Buffer.from(key).toString("latin1")}`;
      const message = `${name}: ${kind} ${digestOfBytes(needs.digest)} is missing`;
      throw new CastoreError("INCOMPLETE", message);
    }
  }
  for (const { key, row, needs } of records) {
    rows.roots.putSync(key, row);
    if (needs !== undefined) seeIfCondemned(rows, needs.rows, needs.digest);
    logRoot(rows, "root", key);
  }
  applyTouch(
    rows,
    records.map(({ key }) => key),
  );
  return true;
}

/** Tells a collection that runs of a root or pin that it has not yet looked at. */
function logRoot(rows: StoreIndex["rows"], kind: "root" | "pin", key: Uint8Array): void {
  if (!rows.meta.doesExist(META_COLLECTOR)) return;
  const position = readCounter(rows.meta, META_LOG) + 1;
  writeCounter(rows.meta, META_LOG, position);
  const at = Buffer.alloc(6);
  at.writeUIntBE(position, 0, 6);
  rows["root-log"].putSync(at, Buffer.concat([Buffer.from(kind === "root" ? "r" : "p"), key]));
}

/** The order of use is counted, not timed: a clock that jumps does not disturb it. */
function applyTouch(rows: StoreIndex["rows"], keys: readonly Uint8Array[]): boolean {
  let tick = readCounter(rows.meta, META_TICK);
  for (const key of keys) {
    if (rows.roots.doesExist(key)) writeCounter(rows.used, key, ++tick);
  }
  writeCounter(rows.meta, META_TICK, tick);
  return true;
}

function putTableRow(rows: StoreIndex["rows"], { key, row, digest }: TableRowWrite): void {
  deleteTableRow(rows, key);
  rows.tables.putSync(key, row);
  if (digest !== undefined) rows.nodes.putSync(Buffer.concat([digest, key]), NOTHING);
}

function deleteTableRow(rows: StoreIndex["rows"], key: Uint8Array): boolean {
  const old = rows.tables.getBinary(key);
  if (old === undefined) return false;
  const digest = tableRowDigest(old);
  if (digest !== undefined) rows.nodes.removeSync(Buffer.concat([digest, key]));
  return rows.tables.removeSync(key);
}

/** The digest that a row of a table names: its row begins with 1 and the digest, or with 0. */
export function tableRowDigest(row: Uint8Array): Uint8Array | undefined {
  return row[0] === 1 ? row.subarray(1, 33) : undefined;
}

/** Removes the table rows that name `digest`. */
export function deleteRowsNaming(rows: StoreIndex["rows"], digest: Uint8Array): void {
  const keys: Uint8Array[] = [];
  visitRows(rows.nodes, { start: digest, end: afterPrefix(digest) }, (key) => {
    keys.push(Uint8Array.prototype.slice.call(key, digest.byteLength));
    return true;
  });
  for (const key of keys) deleteTableRow(rows, key);
}

export function condemnedKey(rows: ObjectRows, digest: Uint8Array): Buffer {
  const key = Buffer.allocUnsafe(1 + digest.byteLength);
  key[0] = rows === "blobs" ? 0x62 : 0x64;
  key.set(digest, 1);
  return key;
}

function see(rows: StoreIndex["rows"], kind: ObjectRows, digest: Uint8Array): boolean {
  if (!rows[kind].doesExist(digest)) return false;
  seeIfCondemned(rows, kind, digest);
  return true;
}

/** Saves what a collection has condemned, and what it needs, as somebody has seen it. */
function seeIfCondemned(rows: StoreIndex["rows"], kind: ObjectRows, digest: Uint8Array): void {
  const key = condemnedKey(kind, digest);
  if (!rows.condemned.doesExist(key)) return;
  if (kind === "blobs") rows.condemned.removeSync(key);
  else rows.seen.putSync(digest, NOTHING);
}
