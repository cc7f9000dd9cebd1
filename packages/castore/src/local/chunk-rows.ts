import { isCastoreError } from "../castore-error.ts";
import { CHUNK_SIZES } from "../chunking/chunker.ts";
import {
  DIGEST_BYTES,
  type Digest,
  digestBytes,
  digestOf,
  digestOfBytes,
} from "../model/digest.ts";
import { WireReader } from "../model/wire-reader.ts";
import { varintLength, WireWriter } from "../model/wire-writer.ts";
import type { BlobAnalysis } from "../recipes/blob-analyzer.ts";
import { type Occurrence, REFERENCE_LENGTH } from "../recipes/normal-form.ts";
import type { ChunkMeta } from "../services/blob-service.ts";
import { afterPrefix, type StoreIndex, visitRows } from "./store-index.ts";

/** What the index holds of the chunks of one normal form of a blob. */
export interface ChunkRows {
  /** Tells the normal forms of one blob apart. */
  readonly form: Uint8Array;
  readonly list: Uint8Array;
  readonly places: readonly (readonly [chunk: Uint8Array, place: Uint8Array])[];
}

const FORM_BYTES = 8;

/** Undefined where the blob is its own only chunk. */
export function chunkRowsOf(analysis: BlobAnalysis): ChunkRows | undefined {
  const { digest, chunks, occurrences } = analysis;
  if (chunks.length === 1 && chunks[0]?.digest === digest) return undefined;
  const list = encodeChunkList({ chunks, plain: occurrences.length === 0 });
  const form = digestBytes(digestOf(list)).subarray(0, FORM_BYTES);
  const places = chunkPlacesOf(analysis).map(
    ([chunk, place]) => [chunk, encodeChunkPlace(place)] as const,
  );
  return { form, list, places };
}

/** Each distinct chunk of the normal form, and where it lies first. */
export function chunkPlacesOf({
  chunks,
  occurrences,
}: BlobAnalysis): (readonly [chunk: Uint8Array, place: ChunkPlace])[] {
  const places: (readonly [Uint8Array, ChunkPlace])[] = [];
  const seen = new Set<Digest>();
  let offset = 0;
  for (const chunk of chunks) {
    if (!seen.has(chunk.digest)) {
      const within = occurrencesWithin(occurrences, offset, chunk.size);
      const place = { offset, size: chunk.size, occurrences: within };
      places.push([digestBytes(chunk.digest), place]);
      seen.add(chunk.digest);
    }
    offset += chunk.size;
  }
  return places;
}

export function putChunkRows({ rows }: StoreIndex, blob: Uint8Array, chunks: ChunkRows): void {
  const key = Buffer.concat([blob, chunks.form]);
  if (rows["blob-chunks"].doesExist(key)) return;
  rows["blob-chunks"].putSync(key, chunks.list);
  for (const [chunk, place] of chunks.places) {
    rows.chunks.putSync(Buffer.concat([chunk, blob]), place);
  }
}

/** Removes what the index holds of the blob's chunks; other blobs may have the same chunks. */
export function deleteChunkRows({ rows }: StoreIndex, blob: Uint8Array): void {
  const keys: Uint8Array[] = [];
  visitRows(rows["blob-chunks"], { start: blob, end: afterPrefix(blob) }, (key, list) => {
    keys.push(Uint8Array.prototype.slice.call(key));
    for (const { digest } of decodeChunkList(key, list)?.chunks ?? []) {
      rows.chunks.removeSync(Buffer.concat([digestBytes(digest), blob]));
    }
    return true;
  });
  for (const key of keys) rows["blob-chunks"].removeSync(key);
}

/** The chunks that join to the blob; empty where it is one, or was put in normal forms only. */
export function plainChunks({ rows }: StoreIndex, digest: Digest): readonly ChunkMeta[] {
  const key = digestBytes(digest);
  let found: readonly ChunkMeta[] = [];
  visitRows(rows["blob-chunks"], { start: key, end: afterPrefix(key) }, (rowKey, row) => {
    const list = decodeChunkList(rowKey, row);
    if (list?.plain === true) found = list.chunks;
    return list?.plain !== true;
  });
  return found;
}

interface ChunkList {
  readonly chunks: readonly ChunkMeta[];
  /** Whether the chunks are the blob's own bytes. */
  readonly plain: boolean;
}

function encodeChunkList({ chunks, plain }: ChunkList): Uint8Array {
  let length = 1;
  for (const { size } of chunks) length += 1 + DIGEST_BYTES + varintLength(size);
  const writer = new WireWriter(length);
  writer.byte(plain ? 1 : 0);
  for (const { digest, size } of chunks) {
    writer.hex(digest);
    writer.varint(size);
  }
  return writer.buffer;
}

/** Undefined where the row is damaged: its key has a digest of it. */
export function decodeChunkList(key: Uint8Array, row: Uint8Array): ChunkList | undefined {
  const form = digestBytes(digestOf(row)).subarray(0, FORM_BYTES);
  if (Buffer.compare(form, key.subarray(DIGEST_BYTES)) !== 0) return undefined;
  const reader = new WireReader(row, "chunk list");
  const plain = reader.varint() === 1;
  const chunks: ChunkMeta[] = [];
  while (!reader.done) {
    chunks.push({ digest: digestOfBytes(reader.bytes()), size: reader.varint() });
  }
  return { chunks, plain };
}

/** Where a chunk of a normal form lies in a blob or file. */
export interface ChunkPlace {
  readonly offset: number;
  readonly size: number;
  /** Offsets in the chunk at which 32 bytes were replaced; ascending, the first may be negative. */
  readonly occurrences: readonly number[];
}

/** Shifts offsets of occurrences so that none is negative. */
const OCCURRENCE_SHIFT = REFERENCE_LENGTH;

export function encodeChunkPlace({ offset, size, occurrences }: ChunkPlace): Uint8Array {
  let length = varintLength(offset) + varintLength(size);
  let previous = -OCCURRENCE_SHIFT;
  for (const at of occurrences) {
    length += varintLength(at - previous);
    previous = at;
  }
  const writer = new WireWriter(length);
  writer.varint(offset);
  writer.varint(size);
  previous = -OCCURRENCE_SHIFT;
  for (const at of occurrences) {
    writer.varint(at - previous);
    previous = at;
  }
  return writer.buffer;
}

/**
 * Undefined where the row is damaged in a way that shows: what is read by it is compared with the
 * chunk's digest in any case.
 */
export function decodeChunkPlace(row: Uint8Array): ChunkPlace | undefined {
  try {
    const reader = new WireReader(row, "chunk place");
    const offset = reader.varint();
    const size = reader.varint();
    const occurrences: number[] = [];
    let previous = -OCCURRENCE_SHIFT;
    while (!reader.done) {
      previous += reader.varint();
      occurrences.push(previous);
    }
    const isPossible = size <= CHUNK_SIZES.max && previous < size;
    return isPossible ? { offset, size, occurrences } : undefined;
  } catch (error) {
    if (isCastoreError(error, "INVALID")) return undefined;
    throw error;
  }
}

/** Those of a blob's occurrences that reach into [offset, offset + size), relative to `offset`. */
function occurrencesWithin(
  occurrences: readonly Occurrence[],
  offset: number,
  size: number,
): number[] {
  const within: number[] = [];
  for (const { offset: at } of occurrences) {
    if (at >= offset + size) break;
    if (at + OCCURRENCE_SHIFT > offset) within.push(at - offset);
  }
  return within;
}
