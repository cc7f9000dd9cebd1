import {
  ByteQueue,
  type ByteSource,
  CastoreError,
  DIGEST_BYTES,
  type Digest,
  digestBytes,
  digestOfBytes,
} from "@castore/castore";
import { parseStoreHash, STORE_HASH_LENGTH, type StoreHash } from "../nix/store-path.ts";

/** Most path infos in one closure stream. */
export const CLOSURE_PATHS_MAX = 1_024;
/** Most bytes in the body of one record: a recipe's limit. */
export const CLOSURE_RECORD_BYTES_MAX = 64 * 1024 * 1024;

const KINDS = {
  pathInfo: 1,
  directory: 2,
  recipe: 3,
  absent: 4,
  leftOut: 5,
  end: 6,
  summary: 7,
} as const;
const HEADER_BYTES = 5;

/** One record of a closure stream (docs/protocol.md, section 4), its message still encoded. */
export type ClosureRecord =
  | { readonly kind: "pathInfo"; readonly bytes: Uint8Array }
  | { readonly kind: "directory"; readonly bytes: Uint8Array }
  | { readonly kind: "recipe"; readonly root: Digest; readonly bytes: Uint8Array }
  | { readonly kind: "summary"; readonly bytes: Uint8Array }
  | { readonly kind: "absent"; readonly storeHash: StoreHash }
  | { readonly kind: "leftOut"; readonly storeHash: StoreHash };

/** The bytes of a closure stream before zstd: the records and the one that ends it. */
export async function* encodeClosureStream(
  records: AsyncIterable<ClosureRecord>,
): AsyncGenerator<Uint8Array, void, undefined> {
  let count = 0;
  for await (const record of records) {
    yield frame(KINDS[record.kind], bodyOf(record));
    count++;
  }
  const body = Buffer.alloc(4);
  body.writeUInt32BE(count);
  yield frame(KINDS.end, [body]);
}

function bodyOf(record: ClosureRecord): readonly Uint8Array[] {
  switch (record.kind) {
    case "pathInfo":
    case "directory":
    case "summary":
      return [record.bytes];
    case "recipe":
      return [digestBytes(record.root), record.bytes];
    case "absent":
    case "leftOut":
      return [Buffer.from(record.storeHash, "latin1")];
  }
}

function frame(kind: number, body: readonly Uint8Array[]): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header[0] = kind;
  header.writeUInt32BE(
    body.reduce((size, part) => size + part.byteLength, 0),
    1,
  );
  return Buffer.concat([header, ...body]);
}

/**
 * The records of a closure stream, decompressed before. Rejects INVALID for a malformed record,
 * EXHAUSTED over a limit, INCOMPLETE where the stream ends without its last record.
 */
export async function* decodeClosureStream(
  source: ByteSource,
): AsyncGenerator<ClosureRecord, void, undefined> {
  const queue = new ByteQueue();
  let header: Buffer | undefined;
  let count = 0;
  let paths = 0;
  for await (const piece of source) {
    queue.push(piece);
    for (;;) {
      header ??= queue.take(HEADER_BYTES);
      if (header === undefined) break;
      const size = header.readUInt32BE(1);
      if (size > CLOSURE_RECORD_BYTES_MAX) throw overLimit(`a record of ${size} bytes`);
      const body = queue.take(size);
      if (body === undefined) break;
      const kind = header[0] ?? 0;
      header = undefined;
      if (kind === KINDS.end) {
        checkEnd(body, count, queue.size);
        return;
      }
      if (kind === KINDS.pathInfo && ++paths > CLOSURE_PATHS_MAX) throw overLimit("path infos");
      count++;
      yield decodeRecord(kind, body);
    }
  }
  throw new CastoreError("INCOMPLETE", `closure stream: cut after ${count} records`);
}

function decodeRecord(kind: number, body: Buffer): ClosureRecord {
  switch (kind) {
    case KINDS.pathInfo:
      return { kind: "pathInfo", bytes: body };
    case KINDS.directory:
      return { kind: "directory", bytes: body };
    case KINDS.recipe:
      return {
        kind: "recipe",
        root: digestOfBytes(body.subarray(0, DIGEST_BYTES)),
        bytes: body.subarray(DIGEST_BYTES),
      };
    case KINDS.summary:
      return { kind: "summary", bytes: body };
    case KINDS.absent:
      return { kind: "absent", storeHash: decodeStoreHash(body) };
    case KINDS.leftOut:
      return { kind: "leftOut", storeHash: decodeStoreHash(body) };
    default:
      throw new CastoreError("INVALID", `closure stream: record of unknown kind ${kind}`);
  }
}

function decodeStoreHash(body: Buffer): StoreHash {
  return parseStoreHash(body.subarray(0, STORE_HASH_LENGTH + 1).toString("latin1"));
}

function checkEnd(body: Buffer, count: number, trailing: number): void {
  if (body.byteLength !== 4 || body.readUInt32BE(0) !== count || trailing > 0) {
    throw new CastoreError("INVALID", `closure stream: its end does not fit ${count} records`);
  }
}

function overLimit(what: string): CastoreError {
  return new CastoreError("EXHAUSTED", `closure stream: ${what}, over the limit`);
}
