import { expect, test } from "vitest";
import { digestOf } from "../src/model/digest.ts";
import type { BlobRecipe } from "../src/recipes/recipe.ts";
import { summarizeTree } from "../src/recipes/tree-summary.ts";

const named = (name: string) => digestOf(Buffer.from(name));

/** A file of one chunk. */
function plain(name: string, size: number, wireSize?: number): BlobRecipe {
  const digest = named(name);
  return { digest, size, chunks: [{ digest, size, wireSize }], occurrences: [] };
}

test("a chunk stands in the sample as often as its bytes weigh", () => {
  const files = [plain("a", 100, 30), plain("b", 100, 10), plain("c", 100, 50), plain("d", 10, 10)];
  expect(summarizeTree(files, 4 * 256)).toEqual({
    metadataBytes: 4 * 256,
    wireBytes: 100,
    // The bytes 12, 37, 62 and 87.
    sample: ["a", "b", "c", "c"].map(named),
  });
});

test("a chunk that is used twice counts once, one of unknown wire size as it is", () => {
  const files = [plain("a", 30), plain("b", 10), plain("a", 30)];
  expect(summarizeTree(files, 2 * 256)).toMatchObject({
    wireBytes: 40,
    // The bytes 10 and 30.
    sample: ["a", "b"].map(named),
  });
});

test("a sample has a chunk for each 256 bytes of metadata, at most 32", () => {
  const files = Array.from({ length: 100 }, (_, i) => plain(`file ${i}`, 1_000));
  const counts = [1, 256, 257, 1_024, 1 << 20].map(
    (bytes) => summarizeTree(files, bytes)?.sample.length,
  );
  expect(counts).toEqual([1, 1, 2, 4, 32]);
  expect(summarizeTree(files.slice(0, 5), 1 << 20)?.sample).toHaveLength(5);
  const many = summarizeTree(files, 1 << 20)?.sample ?? [];
  expect(new Set(many).size).toBe(32);
});

test("files without contents have no summary", () => {
  expect(summarizeTree([], 5_000)).toBeUndefined();
});
