import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { ChunkIndex } from "../src/index.ts";
import { digestOf, parseDigest } from "../src/model/digest.ts";
import { type BlobAnalysis, createBlobAnalyzer } from "../src/recipes/blob-analyzer.ts";
import { createNormalForm, normalizeAt } from "../src/recipes/normal-form.ts";
import type { Fixture } from "./blob-service-suite.ts";
import { prngBytes } from "./vectors.ts";

/** A ChunkIndex, and a way to put bytes at hand whose references are those. */
export interface FilledChunkIndex {
  readonly index: ChunkIndex;
  add(bytes: Uint8Array, references: readonly string[]): Promise<void>;
}

export const REFERENCES = [
  "0123456789abcdfghijklmnpqrsvwxyz",
  "zyxwvsrqpnmlkjihgfdcba9876543210",
] as const;
const ABSENT = { digest: parseDigest("00".repeat(32)), size: 100 };

/** The contract of ChunkIndex, line by line. Every implementation calls this once. */
export function describeChunkIndex(
  name: string,
  make: () => Promise<Fixture<FilledChunkIndex>>,
): void {
  describe(`${name} as a ChunkIndex`, () => {
    let fixture: Fixture<FilledChunkIndex>;
    beforeEach(async () => {
      fixture = await make();
    });
    afterEach(() => fixture.close());

    test("a chunk that nobody has is absent", async () => {
      const { index } = fixture.service;
      expect(await index.has([ABSENT.digest])).toEqual([false]);
      expect(await index.get(ABSENT)).toBeUndefined();
      expect(await index.has([])).toEqual([]);
    });

    test("every chunk of a blob without references is found", async () => {
      const bytes = prngBytes(2_000_000);
      await fixture.service.add(bytes, []);
      await expectChunks(fixture.service.index, bytes, analyze(bytes, []));
    });

    test("a small blob is its own chunk", async () => {
      const bytes = prngBytes(5000);
      await fixture.service.add(bytes, REFERENCES);
      const analysis = analyze(bytes, REFERENCES);
      expect(analysis.chunks).toHaveLength(1);
      await expectChunks(fixture.service.index, bytes, analysis);
    });

    test("chunks are those of the normal form, wherever references stand", async () => {
      const bytes = referring(2_000_000, [0, 1000, 150_000, 700_000, 700_032, 1_999_968]);
      await fixture.service.add(bytes, REFERENCES);
      const analysis = analyze(bytes, REFERENCES);
      expect(analysis.occurrences).toHaveLength(6);
      await expectChunks(fixture.service.index, bytes, analysis);
    });

    test("a reference that a chunk's end cuts in two is replaced in both", async () => {
      const probe = analyze(prngBytes(1_000_000), []);
      const end = probe.chunks[0]?.size ?? 0;
      // The boundary moves with the bytes; one of these offsets is across it all the same.
      for (const shift of [1, 13, 31]) {
        const bytes = referring(1_000_000, [end - shift]);
        await fixture.service.add(bytes, REFERENCES);
        await expectChunks(fixture.service.index, bytes, analyze(bytes, REFERENCES));
      }
    });

    test("two blobs that differ in their references only share all chunks", async () => {
      const one = referring(900_000, [10_000, 500_000]);
      const other = Buffer.from(one);
      other.write(REFERENCES[1], 10_000, "latin1");
      other.write(REFERENCES[0], 500_000, "latin1");
      expect(digestOf(one)).not.toBe(digestOf(other));
      await fixture.service.add(one, REFERENCES);
      await expectChunks(fixture.service.index, other, analyze(other, REFERENCES));
    });

    test("the bytes become the caller's", async () => {
      const bytes = prngBytes(4000);
      await fixture.service.add(bytes, []);
      const chunk = { digest: digestOf(bytes), size: bytes.length };
      (await fixture.service.index.get(chunk))?.fill(0);
      expect(digestOf((await fixture.service.index.get(chunk)) ?? bytes)).toBe(chunk.digest);
    });

    test("a signal that has already aborted ends every call with its reason", async () => {
      const reason = new Error("the caller went away");
      const signal = AbortSignal.abort(reason);
      const { index } = fixture.service;
      await expect(index.has([ABSENT.digest], { signal })).rejects.toBe(reason);
      await expect(index.get(ABSENT, { signal })).rejects.toBe(reason);
    });
  });
}

/** Random bytes with references at `offsets`. */
export function referring(size: number, offsets: readonly number[]): Buffer {
  const bytes = Buffer.from(prngBytes(size));
  offsets.forEach((offset, i) => {
    bytes.write(REFERENCES[i % REFERENCES.length] ?? "", offset, "latin1");
  });
  return bytes;
}

export function analyze(bytes: Uint8Array, references: readonly string[]): BlobAnalysis {
  const analyzer = createBlobAnalyzer(createNormalForm(references));
  analyzer.push(new Uint8Array(bytes));
  return analyzer.finish();
}

/** Expects every chunk of the analysis, which is of `bytes`, to be found. */
export async function expectChunks(
  index: ChunkIndex,
  bytes: Uint8Array,
  { chunks, occurrences }: BlobAnalysis,
): Promise<void> {
  const form = Buffer.from(bytes);
  normalizeAt(form, 0, occurrences);
  expect(await index.has(chunks.map(({ digest }) => digest))).toEqual(chunks.map(() => true));
  let offset = 0;
  for (const chunk of chunks) {
    const got = await index.get(chunk);
    expect(Buffer.from(got ?? []).equals(form.subarray(offset, offset + chunk.size))).toBe(true);
    offset += chunk.size;
  }
}
