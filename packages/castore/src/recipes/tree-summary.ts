import { DIGEST_BYTES, type Digest, digestOfBytes } from "../model/digest.ts";
import { WIRE_BYTES, WIRE_VARINT, WireReader } from "../model/wire-reader.ts";
import { varintLength, WireWriter } from "../model/wire-writer.ts";
import type { BlobRecipe, RecipeChunk } from "./recipe.ts";

/** Most chunks in a sample: what it tells is then right within a tenth, mostly. */
export const SAMPLE_CHUNKS_MAX = 32;
/** Metadata for each chunk of a sample: a summary takes an eighth of what it stands for. */
const METADATA_PER_SAMPLE = 256;

/**
 * What tells a client, in few bytes, whether a tree's directories and recipe are worth fetching. It
 * is a claim, and all that hangs on it is which way is taken.
 */
export interface TreeSummary {
  /** About what directories and recipe take on the wire. */
  readonly metadataBytes: number;
  /** Of the distinct chunks, as far as that is known, else as they are. */
  readonly wireBytes: number;
  /**
   * Chunks that stand for as many bytes on the wire each, so that the share of them that a client
   * has is about the share of bytes that it need not fetch. At least one, at most
   * SAMPLE_CHUNKS_MAX; a large chunk may stand here several times.
   */
  readonly sample: readonly Digest[];
}

/** The summary of a tree of these files; undefined where they are all empty. */
export function summarizeTree(
  files: readonly BlobRecipe[],
  metadataBytes: number,
): TreeSummary | undefined {
  const distinct = new Map<Digest, RecipeChunk>();
  for (const { chunks } of files) for (const chunk of chunks) distinct.set(chunk.digest, chunk);
  let wireBytes = 0;
  for (const chunk of distinct.values()) wireBytes += bytesOf(chunk);
  const wanted = Math.ceil(metadataBytes / METADATA_PER_SAMPLE);
  const count = Math.min(wanted, distinct.size, SAMPLE_CHUNKS_MAX);
  if (count === 0) return undefined;
  const sample: Digest[] = [];
  let end = 0;
  for (const chunk of distinct.values()) {
    end += bytesOf(chunk);
    // The middles of `count` equal parts of all bytes, the chunks one after another.
    while (sample.length < count && (2 * sample.length + 1) * wireBytes < 2 * count * end) {
      sample.push(chunk.digest);
    }
  }
  return { metadataBytes, wireBytes, sample };
}

function bytesOf({ size, wireSize }: RecipeChunk): number {
  return wireSize ?? size;
}

/** The canonical encoding (docs/protocol.md, Messages). `summary` is valid. */
export function encodeTreeSummary({ metadataBytes, wireBytes, sample }: TreeSummary): Buffer {
  const digestBytes = sample.length * DIGEST_BYTES;
  const size = 3 + varintLength(metadataBytes) + varintLength(wireBytes);
  const writer = new WireWriter(size + varintLength(digestBytes) + digestBytes);
  writer.byte(0x08);
  writer.varint(metadataBytes);
  writer.byte(0x10);
  writer.varint(wireBytes);
  writer.byte(0x1a);
  writer.hex(sample.join(""));
  return writer.buffer;
}

/** Decodes a summary. Rejects INVALID unless `bytes` is the canonical encoding of a valid one. */
export function decodeTreeSummary(bytes: Uint8Array): TreeSummary {
  const reader = new WireReader(bytes, "summary");
  if (!reader.takeTag(1, WIRE_VARINT)) reader.fail("no bytes of metadata");
  const metadataBytes = reader.nonZero();
  if (!reader.takeTag(2, WIRE_VARINT)) reader.fail("no bytes of chunks");
  const wireBytes = reader.nonZero();
  if (!reader.takeTag(3, WIRE_BYTES)) reader.fail("no sample");
  const digests = reader.bytes();
  const count = digests.byteLength / DIGEST_BYTES;
  if (!Number.isInteger(count) || count === 0 || count > SAMPLE_CHUNKS_MAX) {
    reader.fail(`a sample of ${digests.byteLength} bytes`);
  }
  if (!reader.done) reader.fail("field is unknown, repeated or out of order");
  const sample: Digest[] = [];
  for (let at = 0; at < digests.byteLength; at += DIGEST_BYTES) {
    sample.push(digestOfBytes(digests.subarray(at, at + DIGEST_BYTES)));
  }
  return { metadataBytes, wireBytes, sample };
}
