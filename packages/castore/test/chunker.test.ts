import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { chunksOf, createChunker } from "../src/chunking/chunker.ts";
import type { ChunkSizes } from "../src/chunking/kernel.ts";
import { digestOf } from "../src/model/digest.ts";
import { generate, prngBytes, vectors } from "./vectors.ts";

/** Piece sizes that put boundaries everywhere: within a pair, a window, a chunk. */
const PIECES = [1 << 30, 262_144, 65_536, 65_537, 1_001];

function cutInPieces(bytes: Uint8Array, sizes: ChunkSizes, pieceBytes: number): number[] {
  const chunker = createChunker(sizes);
  const ends: number[] = [];
  for (let at = 0; at < bytes.byteLength; at += pieceBytes) {
    ends.push(...chunker.push(bytes.subarray(at, at + pieceBytes)));
  }
  if (bytes.byteLength > (ends.at(-1) ?? 0)) ends.push(bytes.byteLength);
  return ends;
}

describe("snix cuts these blobs at the same places", () => {
  test.each(vectors.fastcdc.cases)("$name", async (vector) => {
    const bytes = generate(vector.generator, vector.len);
    expect(digestOf(bytes)).toBe(vector.blake3_hex);
    const { min, avg: average, max } = vector;
    for (const pieceBytes of PIECES) {
      const ends = cutInPieces(bytes, { min, average, max }, pieceBytes);
      expect(ends).toHaveLength(vector.raw_chunks_total ?? vector.raw_chunks.length);
      const known = vector.raw_chunks.map(({ offset, size }) => offset + size);
      expect(ends.slice(0, known.length)).toEqual(known);
    }
    const digests: string[] = [];
    const source = [bytes.subarray(0, 70_001), bytes.subarray(70_001)];
    for await (const chunk of chunksOf(source, { sizes: { min, average, max } })) {
      digests.push(digestOf(chunk));
    }
    expect(digests.slice(0, vector.raw_chunks.length)).toEqual(
      vector.raw_chunks.map(({ digest }) => digest),
    );
  });
});

/** FastCDC v2020 written down plainly, to compare with: one chunk's size, from all its bytes. */
function plainCut(bytes: Uint8Array, gear: readonly bigint[], sizes: ChunkSizes): number {
  const mask64 = (1n << 64n) - 1n;
  const [maskSmall, maskLarge] = [0xd90003530000n, 0x19000353000n];
  let remaining = bytes.byteLength;
  if (remaining <= sizes.min) return remaining;
  let center = sizes.average;
  if (remaining > sizes.max) remaining = sizes.max;
  else if (remaining < center) center = remaining;
  let hash = 0n;
  for (let i = Math.floor(sizes.min / 2); i < Math.floor(remaining / 2); i++) {
    const mask = i < Math.floor(center / 2) ? maskSmall : maskLarge;
    hash = ((hash << 2n) + (((gear[bytes[2 * i] ?? 0] ?? 0n) << 1n) & mask64)) & mask64;
    if ((hash & (mask << 1n)) === 0n) return 2 * i;
    hash = (hash + (gear[bytes[2 * i + 1] ?? 0] ?? 0n)) & mask64;
    if ((hash & mask) === 0n) return 2 * i + 1;
  }
  return remaining;
}

test("odd sizes and odd pieces cut where the plain algorithm does", async () => {
  const { createHash } = await import("node:crypto");
  const gear = Array.from({ length: 256 }, (_, byte) =>
    createHash("md5").update(Buffer.alloc(64, byte)).digest().readBigUInt64BE(0),
  );
  const bytes = prngBytes(60_000, "odd");
  const size = fc.record({
    min: fc.integer({ min: 64, max: 700 }),
    average: fc.integer({ min: 725, max: 740 }),
    max: fc.integer({ min: 741, max: 3001 }),
  });
  fc.assert(
    fc.property(
      size,
      fc.integer({ min: 0, max: 9000 }),
      fc.integer({ min: 1, max: 5000 }),
      (sizes, len, piece) => {
        const part = bytes.subarray(len, 2 * len);
        const ends: number[] = [];
        for (let at = 0; at < part.byteLength; at = ends.at(-1) ?? at) {
          ends.push(at + plainCut(part.subarray(at), gear, sizes));
        }
        expect(cutInPieces(part, sizes, piece)).toEqual(ends);
      },
    ),
    { numRuns: 200 },
  );
});

test("chunksOf() joins to its source and copies only across pieces", async () => {
  const bytes = prngBytes(3_000_000, "join");
  for (const pieceBytes of PIECES) {
    const pieces: Uint8Array[] = [];
    for (let at = 0; at < bytes.length; at += pieceBytes) {
      pieces.push(bytes.subarray(at, at + pieceBytes), new Uint8Array(0));
    }
    const chunks: Uint8Array[] = [];
    for await (const chunk of chunksOf(pieces)) chunks.push(chunk);
    expect(Buffer.concat(chunks).equals(bytes)).toBe(true);
    expect(chunks.length).toBeGreaterThan(4);
    if (pieceBytes > bytes.length) {
      expect(chunks.every((chunk) => chunk.buffer === bytes.buffer)).toBe(true);
    }
  }
  expect(await chunksOf([]).next()).toEqual({ done: true, value: undefined });
});

test("chunksOf() ends with the signal's reason", async () => {
  const reason = new Error("enough");
  const chunks = chunksOf([prngBytes(1000)], { signal: AbortSignal.abort(reason) });
  await expect(chunks.next()).rejects.toBe(reason);
});

test.each([
  { min: 63, average: 1024, max: 2048 },
  { min: 2048, average: 1024, max: 4096 },
  { min: 64, average: 511, max: 1024 },
  { min: 64, average: 2_097_153, max: 4_194_304 },
  { min: 64, average: 1024, max: 1023 },
  { min: 64, average: 1024, max: 2 ** 24 + 1 },
  { min: 64.5, average: 1024, max: 2048 },
])("chunk sizes out of bounds are misuse: $min, $average, $max", (sizes) => {
  expect(() => createChunker(sizes)).toThrow(RangeError);
});
