import { CastoreError } from "../castore-error.ts";
import { CHUNK_SIZES } from "../chunking/chunker.ts";
import { DIGEST_BYTES, type Digest, digestOfBytes } from "../model/digest.ts";
import { WIRE_BYTES, WIRE_VARINT, WireReader } from "../model/wire-reader.ts";
import { fieldLength, packedLength, varintLength, WireWriter } from "../model/wire-writer.ts";
import {
  checkReference,
  OCCURRENCES_MAX,
  type Occurrence,
  REFERENCE_LENGTH,
} from "./normal-form.ts";
import {
  type BlobRecipe,
  RECIPE_CHUNKS_MAX,
  RECIPE_FILES_MAX,
  RECIPE_OCCURRENCES_MAX,
  type Recipe,
} from "./recipe.ts";

/** Most bytes of a recipe's encoding. */
export const RECIPE_BYTES_MAX = 64 << 20;

/** A BlobRecipe's lists as its message holds them. */
interface Columns {
  readonly blob: BlobRecipe;
  /** Sizes of all chunks but the last. */
  readonly sizes: readonly number[];
  /** Wire sizes of all chunks, 0 for unknown; none where all are unknown. */
  readonly wireSizes: readonly number[];
  /** From the end of the occurrence before, or from the blob's start. */
  readonly gaps: readonly number[];
  readonly references: readonly number[];
  readonly length: number;
}

/** The canonical encoding (docs/protocol.md, Messages). `recipe` is valid. */
export function encodeRecipe(recipe: Recipe): Buffer {
  const blobs = recipe.blobs.map(columnsOf);
  const references = recipe.references.join("");
  let size = fieldLength(references.length) + fieldLength(packedLength(recipe.plainWireSizes));
  for (const { length } of blobs) size += fieldLength(length);
  const writer = new WireWriter(size);
  if (references !== "") {
    writer.byte(0x0a);
    writer.latin1(references);
  }
  for (const columns of blobs) writeBlob(writer, columns);
  writer.packed(0x1a, recipe.plainWireSizes);
  return writer.buffer;
}

function columnsOf(blob: BlobRecipe): Columns {
  const { chunks, occurrences } = blob;
  const sizes = chunks.slice(0, -1).map((chunk) => chunk.size);
  const known = chunks.some(({ wireSize }) => wireSize !== undefined);
  const wireSizes = known ? chunks.map(({ wireSize }) => wireSize ?? 0) : [];
  const gaps: number[] = [];
  let end = 0;
  for (const { offset } of occurrences) {
    gaps.push(offset - end);
    end = offset + REFERENCE_LENGTH;
  }
  const references = occurrences.map(({ reference }) => reference);
  let length = 2 + DIGEST_BYTES + 1 + varintLength(blob.size);
  length += fieldLength(chunks.length * DIGEST_BYTES);
  for (const list of [sizes, wireSizes, gaps, references])
    length += fieldLength(packedLength(list));
  return { blob, sizes, wireSizes, gaps, references, length };
}

function writeBlob(writer: WireWriter, columns: Columns): void {
  const { blob } = columns;
  writer.byte(0x12);
  writer.varint(columns.length);
  writer.byte(0x0a);
  writer.hex(blob.digest);
  writer.byte(0x10);
  writer.varint(blob.size);
  writer.byte(0x1a);
  writer.hex(blob.chunks.map(({ digest }) => digest).join(""));
  writer.packed(0x22, columns.sizes);
  writer.packed(0x2a, columns.wireSizes);
  writer.packed(0x32, columns.gaps);
  writer.packed(0x3a, columns.references);
}

/**
 * Decodes a recipe. Rejects INVALID unless `bytes` is the canonical encoding of a valid one,
 * EXHAUSTED over a limit.
 */
export function decodeRecipe(bytes: Uint8Array): Recipe {
  limit("bytes", bytes.byteLength, RECIPE_BYTES_MAX);
  const reader = new WireReader(bytes, "recipe");
  const references = reader.takeTag(1, WIRE_BYTES) ? readReferences(reader) : [];
  const blobs: BlobRecipe[] = [];
  const digests = new Set<Digest>();
  const used = new Set<number>();
  let chunkCount = 0;
  let occurrenceCount = 0;
  while (reader.takeTag(2, WIRE_BYTES)) {
    const blob = readBlob(new WireReader(reader.bytes(), "recipe of a blob"), references.length);
    if (digests.has(blob.digest)) reader.fail(`blob ${blob.digest} is listed twice`);
    digests.add(blob.digest);
    for (const { reference } of blob.occurrences) used.add(reference);
    chunkCount += blob.chunks.length;
    occurrenceCount += blob.occurrences.length;
    blobs.push(blob);
    limit("blobs", blobs.length, RECIPE_FILES_MAX);
    limit("chunks", chunkCount, RECIPE_CHUNKS_MAX);
    limit("occurrences", occurrenceCount, RECIPE_OCCURRENCES_MAX);
  }
  if (used.size !== references.length) reader.fail("a reference is not used");
  const plainWireSizes = reader.takeTag(3, WIRE_BYTES) ? reader.packed() : [];
  limit("wire sizes", plainWireSizes.length, RECIPE_FILES_MAX);
  if (plainWireSizes.includes(0)) reader.fail("a wire size is 0");
  if (!reader.done) reader.fail("field is unknown, repeated or out of order");
  return { references, blobs, plainWireSizes };
}

function limit(what: string, value: number, max: number): void {
  if (value > max) throw new CastoreError("EXHAUSTED", `recipe: ${value} ${what}, over ${max}`);
}

function readReferences(reader: WireReader): string[] {
  const text = Buffer.from(reader.bytes()).toString("latin1");
  if (text.length === 0) reader.fail("default value is written out");
  const references: string[] = [];
  for (let at = 0; at < text.length; at += REFERENCE_LENGTH) {
    const reference = text.slice(at, at + REFERENCE_LENGTH);
    checkReference(reference);
    const previous = references.at(-1);
    if (previous !== undefined && previous >= reference) reader.fail("references do not ascend");
    references.push(reference);
  }
  return references;
}

function readBlob(reader: WireReader, referenceCount: number): BlobRecipe {
  if (!reader.takeTag(1, WIRE_BYTES)) reader.fail("no digest");
  const digest = digestOfBytes(reader.bytes());
  if (!reader.takeTag(2, WIRE_VARINT)) reader.fail("no size");
  const size = reader.nonZero();
  if (!reader.takeTag(3, WIRE_BYTES)) reader.fail("no chunks");
  const digests = readDigests(reader);
  const sizes = reader.takeTag(4, WIRE_BYTES) ? reader.packed() : [];
  sizes.push(lastSize(reader, sizes, size));
  const wireSizes = reader.takeTag(5, WIRE_BYTES) ? reader.packed() : undefined;
  const gaps = reader.takeTag(6, WIRE_BYTES) ? reader.packed() : [];
  const references = reader.takeTag(7, WIRE_BYTES) ? reader.packed() : [];
  if (!reader.done) reader.fail("field is unknown, repeated or out of order");
  if (sizes.length !== digests.length) reader.fail("sizes and digests of chunks differ in number");
  if (wireSizes !== undefined) {
    if (wireSizes.length !== digests.length) reader.fail("wire sizes differ in number");
    if (wireSizes.every((wireSize) => wireSize === 0)) reader.fail("no wire size is known");
  }
  const occurrences = occurrencesOf(reader, gaps, references, size);
  if (references.some((reference) => reference >= referenceCount)) reader.fail("no such reference");
  if (digests.length === 1 && occurrences.length === 0) reader.fail("blob need not be listed");
  const chunks = digests.map((chunk, i) => ({
    digest: chunk,
    size: sizes[i] ?? 0,
    wireSize: wireSizes?.[i] || undefined,
  }));
  return { digest, size, chunks, occurrences };
}

function readDigests(reader: WireReader): Digest[] {
  const bytes = reader.bytes();
  if (bytes.byteLength === 0) reader.fail("default value is written out");
  limit("chunks", bytes.byteLength / DIGEST_BYTES, RECIPE_CHUNKS_MAX);
  const digests: Digest[] = [];
  for (let at = 0; at < bytes.byteLength; at += DIGEST_BYTES) {
    digests.push(digestOfBytes(bytes.subarray(at, at + DIGEST_BYTES)));
  }
  return digests;
}

/** What the other chunks leave of the blob. FastCDC bounds all. */
function lastSize(reader: WireReader, sizes: readonly number[], size: number): number {
  let rest = size;
  for (const chunkSize of sizes) {
    if (chunkSize < CHUNK_SIZES.min || chunkSize > CHUNK_SIZES.max) {
      reader.fail(`chunk of ${chunkSize} bytes`);
    }
    rest -= chunkSize;
  }
  if (rest < 1 || rest > CHUNK_SIZES.max) reader.fail(`last chunk of ${rest} bytes`);
  return rest;
}

function occurrencesOf(
  reader: WireReader,
  gaps: readonly number[],
  references: readonly number[],
  size: number,
): Occurrence[] {
  if (gaps.length !== references.length) reader.fail("gaps and references differ in number");
  if (gaps.length > OCCURRENCES_MAX) reader.fail(`over ${OCCURRENCES_MAX} occurrences`);
  let end = 0;
  const occurrences = gaps.map((gap, i) => {
    const offset = end + gap;
    end = offset + REFERENCE_LENGTH;
    return { offset, reference: references[i] ?? 0 };
  });
  if (end > size) reader.fail("an occurrence lies beyond the blob");
  return occurrences;
}
