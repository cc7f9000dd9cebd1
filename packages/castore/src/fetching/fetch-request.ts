import { CastoreError } from "../castore-error.ts";
import { DIGEST_BYTES, type Digest, digestOfBytes } from "../model/digest.ts";
import { WIRE_BYTES, WIRE_VARINT, WireReader } from "../model/wire-reader.ts";
import { fieldLength, varintLength, WireWriter } from "../model/wire-writer.ts";

/** Most items in one request. */
export const FETCH_REQUEST_ITEMS_MAX = 1_024;

/** The bytes [start, end) of a blob; of the whole blob where `end` is its size. */
export interface BlobRange {
  readonly digest: Digest;
  readonly start: number;
  readonly end: number;
}

/** Chunks, then ranges of blobs: item i is chunk i, or range i − the number of chunks. */
export interface FetchRequest {
  readonly chunks: readonly Digest[];
  readonly ranges: readonly BlobRange[];
}

/** The canonical encoding (docs/protocol.md, Messages). `request` is valid. */
export function encodeFetchRequest({ chunks, ranges }: FetchRequest): Buffer {
  let size = fieldLength(chunks.length * DIGEST_BYTES);
  for (const range of ranges) size += fieldLength(rangeLength(range));
  const writer = new WireWriter(size);
  if (chunks.length > 0) {
    writer.byte(0x0a);
    writer.hex(chunks.join(""));
  }
  for (const range of ranges) {
    writer.byte(0x12);
    writer.varint(rangeLength(range));
    writer.byte(0x0a);
    writer.hex(range.digest);
    if (range.start > 0) {
      writer.byte(0x10);
      writer.varint(range.start);
    }
    writer.byte(0x18);
    writer.varint(range.end);
  }
  return writer.buffer;
}

function rangeLength({ start, end }: BlobRange): number {
  const startLength = start === 0 ? 0 : 1 + varintLength(start);
  return 2 + DIGEST_BYTES + startLength + 1 + varintLength(end);
}

/**
 * Decodes a request. Rejects INVALID unless `bytes` is the canonical encoding of a valid one: at
 * least one item, no empty range; EXHAUSTED for more than FETCH_REQUEST_ITEMS_MAX items.
 */
export function decodeFetchRequest(bytes: Uint8Array): FetchRequest {
  const reader = new WireReader(bytes, "fetch request");
  const joined = reader.takeTag(1, WIRE_BYTES) ? reader.bytes() : undefined;
  if (joined?.byteLength === 0) reader.fail("default value is written out");
  const chunks: Digest[] = [];
  const joinedLength = joined?.byteLength ?? 0;
  limitItems(Math.ceil(joinedLength / DIGEST_BYTES));
  for (let at = 0; at < joinedLength; at += DIGEST_BYTES) {
    chunks.push(digestOfBytes((joined ?? bytes).subarray(at, at + DIGEST_BYTES)));
  }
  const ranges: BlobRange[] = [];
  while (reader.takeTag(2, WIRE_BYTES)) {
    ranges.push(readRange(new WireReader(reader.bytes(), "range of a fetch request")));
    limitItems(chunks.length + ranges.length);
  }
  if (!reader.done) reader.fail("field is unknown, repeated or out of order");
  if (chunks.length + ranges.length === 0) reader.fail("no items");
  return { chunks, ranges };
}

function readRange(reader: WireReader): BlobRange {
  if (!reader.takeTag(1, WIRE_BYTES)) reader.fail("no digest");
  const digest = digestOfBytes(reader.bytes());
  const start = reader.takeTag(2, WIRE_VARINT) ? reader.nonZero() : 0;
  const end = reader.takeTag(3, WIRE_VARINT) ? reader.nonZero() : 0;
  if (end <= start) reader.fail("the range is empty");
  if (!reader.done) reader.fail("field is unknown, repeated or out of order");
  return { digest, start, end };
}

function limitItems(count: number): void {
  if (count > FETCH_REQUEST_ITEMS_MAX) {
    const message = `fetch request: over ${FETCH_REQUEST_ITEMS_MAX} items`;
    throw new CastoreError("EXHAUSTED", message);
  }
}
