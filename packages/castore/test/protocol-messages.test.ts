import { readFileSync } from "node:fs";
import fc from "fast-check";
import protobuf from "protobufjs";
import { describe, expect, test } from "vitest";
import { isCastoreError } from "../src/castore-error.ts";
import { decodeClosureRequest, encodeClosureRequest } from "../src/fetching/closure-request.ts";
import { decodeFetchRequest, encodeFetchRequest } from "../src/fetching/fetch-request.ts";
import { type Digest, digestOf } from "../src/model/digest.ts";
import { OCCURRENCES_MAX } from "../src/recipes/normal-form.ts";
import { type BlobRecipe, completeRecipe, type Recipe } from "../src/recipes/recipe.ts";
import { decodeRecipe, encodeRecipe } from "../src/recipes/recipe-codec.ts";
import { decodeTreeSummary, encodeTreeSummary } from "../src/recipes/tree-summary.ts";
import { expectRoundTrip, expectStrict } from "./codec-fuzz.ts";

const read = (path: string): string =>
  readFileSync(new URL(`../../../${path}`, import.meta.url), "utf8");

const messages = protobuf.parse(read("proto/protocol.proto")).root;

/** What an independent decoder reads, from our own .proto. */
function decodeByProto(name: string, bytes: Uint8Array): Record<string, unknown> {
  const type = messages.lookupType(`castore.v1.${name}`);
  return type.toObject(type.decode(bytes), { longs: Number, bytes: String, defaults: true });
}

const recipeCodec = { encode: encodeRecipe, decode: decodeRecipe };
const fetchCodec = { encode: encodeFetchRequest, decode: decodeFetchRequest };
const closureCodec = { encode: encodeClosureRequest, decode: decodeClosureRequest };

const summaryCodec = { encode: encodeTreeSummary, decode: decodeTreeSummary };

const digest = fc.integer({ min: 1 }).map((seed) => digestOf(Buffer.from(`${seed}`)));
const storeHash = fc.integer({ min: 0 }).map((n) => `${n}`.padStart(32, "0"));
const storeHashes = (maxLength: number) => fc.uniqueArray(storeHash, { maxLength });

const references = ["0".repeat(32), "1".repeat(32), "2".repeat(32)];

const blobRecipe: fc.Arbitrary<BlobRecipe> = fc
  .record({
    digest,
    sizes: fc.array(fc.integer({ min: 131_072, max: 524_288 }), { maxLength: 4 }),
    last: fc.integer({ min: 64, max: 524_288 }),
    wireSizes: fc.array(fc.option(fc.integer({ min: 1 }), { nil: undefined }), { minLength: 5 }),
    gaps: fc.array(fc.nat({ max: 300 }), { maxLength: 3 }),
    chunks: fc.array(digest, { minLength: 5, maxLength: 5 }),
  })
  .map(({ digest, sizes, last, wireSizes, gaps, chunks }) => {
    const all = [...sizes, last];
    let offset = 0;
    return {
      digest,
      size: all.reduce((sum, size) => sum + size, 0),
      chunks: all.map((size, i) => ({
        digest: chunks[i] ?? digest,
        size,
        wireSize: wireSizes[i],
      })),
      occurrences: gaps.map((gap, i) => {
        offset += gap + (i > 0 ? 32 : 0);
        return { offset, reference: i };
      }),
    };
  })
  .filter(({ size, chunks, occurrences }) => {
    const end = (occurrences.at(-1)?.offset ?? -32) + 32;
    return chunks.length + occurrences.length > 1 && end <= size;
  });

const recipe: fc.Arbitrary<Recipe> = fc
  .record({
    blobs: fc.uniqueArray(blobRecipe, { maxLength: 6, selector: (blob) => blob.digest }),
    plainWireSizes: fc.array(fc.integer({ min: 1 })),
  })
  .map(({ blobs, plainWireSizes }) => {
    const used = Math.max(0, ...blobs.map((blob) => blob.occurrences.length));
    return { references: references.slice(0, used), blobs, plainWireSizes };
  });

const fetchRequest = fc
  .record({
    chunks: fc.array(digest, { maxLength: 20 }),
    ranges: fc.array(
      fc
        .record({ digest, start: fc.nat(), length: fc.integer({ min: 1 }) })
        .map(({ digest, start, length }) => ({ digest, start, end: start + length })),
      { maxLength: 20 },
    ),
  })
  .filter(({ chunks, ranges }) => chunks.length + ranges.length > 0);

const closureRequest = fc.record({
  wanted: storeHashes(10).filter((hashes) => hashes.length > 0),
  follow: fc.boolean(),
  known: storeHashes(10).map((hashes) => hashes.sort()),
  summaries: fc.boolean(),
});

const summary = fc.record({
  metadataBytes: fc.integer({ min: 1 }),
  wireBytes: fc.integer({ min: 1 }),
  sample: fc.array(digest, { minLength: 1, maxLength: 32 }),
});

describe("messages survive encoding", () => {
  test("recipes", () => expectRoundTrip(recipeCodec, recipe));
  test("fetch requests", () => expectRoundTrip(fetchCodec, fetchRequest));
  test("closure requests", () => expectRoundTrip(closureCodec, closureRequest));
  test("summaries", () => expectRoundTrip(summaryCodec, summary));
});

describe("a message has one encoding, and nothing else is accepted", () => {
  test("recipes", () => expectStrict(recipeCodec, recipe.map(encodeRecipe)));
  test("fetch requests", () => expectStrict(fetchCodec, fetchRequest.map(encodeFetchRequest)));
  test("closure requests", () =>
    expectStrict(closureCodec, closureRequest.map(encodeClosureRequest)));
  test("summaries", () => expectStrict(summaryCodec, summary.map(encodeTreeSummary)));
});

test("the .proto describes the messages: another decoder reads the same values", () => {
  const hex = (text: string) => Buffer.from(text, "hex").toString("base64");
  fc.assert(
    fc.property(recipe, (value) => {
      const decoded = decodeByProto("Recipe", encodeRecipe(value));
      expect(decoded).toMatchObject({
        references: Buffer.from(value.references.join("")).toString("base64"),
        plainWireSizes: value.plainWireSizes,
        blobs: value.blobs.map((blob) => ({
          digest: hex(blob.digest),
          size: blob.size,
          chunks: hex(blob.chunks.map((chunk) => chunk.digest).join("")),
          chunkSizes: blob.chunks.slice(0, -1).map((chunk) => chunk.size),
          references: blob.occurrences.map((occurrence) => occurrence.reference),
        })),
      });
    }),
    { numRuns: 50 },
  );
  fc.assert(
    fc.property(fetchRequest, ({ chunks, ranges }) => {
      expect(decodeByProto("FetchRequest", encodeFetchRequest({ chunks, ranges }))).toEqual({
        chunks: hex(chunks.join("")),
        ranges: ranges.map((range) => ({ ...range, digest: hex(range.digest) })),
      });
    }),
    { numRuns: 50 },
  );
  fc.assert(
    fc.property(closureRequest, (value) => {
      expect(decodeByProto("ClosureRequest", encodeClosureRequest(value))).toEqual({
        wanted: Buffer.from(value.wanted.join("")).toString("base64"),
        follow: value.follow,
        known: Buffer.from(value.known.join("")).toString("base64"),
        summaries: value.summaries,
      });
    }),
    { numRuns: 50 },
  );
  fc.assert(
    fc.property(summary, (value) => {
      const sample = hex(value.sample.join(""));
      const decoded = decodeByProto("Summary", encodeTreeSummary(value));
      expect(decoded).toEqual({ ...value, sample });
    }),
    { numRuns: 50 },
  );
});

describe("limits", () => {
  const expectExhausted = (run: () => unknown): void => {
    expect(run).toThrow(expect.toSatisfy((error) => isCastoreError(error, "EXHAUSTED")));
  };
  const hashes = (count: number) =>
    Array.from({ length: count }, (_, i) => `${i}`.padStart(32, "0"));

  const digests = (count: number) => hashes(count).map((text) => digestOf(Buffer.from(text)));

  test("a fetch request has at most 1,024 items", () => {
    const chunks = Array.from({ length: 1_024 }, () => "00".repeat(32) as Digest);
    const range = { digest: "00".repeat(32) as Digest, start: 0, end: 1 };
    expect(decodeFetchRequest(encodeFetchRequest({ chunks, ranges: [] })).chunks).toEqual(chunks);
    expectExhausted(() => decodeFetchRequest(encodeFetchRequest({ chunks, ranges: [range] })));
  });

  test("a closure request has at most 256 wanted and 4,096 known store hashes", () => {
    const request = { wanted: hashes(256), follow: true, known: hashes(4_096), summaries: false };
    expect(decodeClosureRequest(encodeClosureRequest(request))).toEqual(request);
    for (const over of [{ wanted: hashes(257) }, { known: hashes(4_097) }]) {
      expectExhausted(() => decodeClosureRequest(encodeClosureRequest({ ...request, ...over })));
    }
  });

  test("a summary samples 1 to 32 chunks, and says how large all is", () => {
    const valid = { metadataBytes: 1, wireBytes: 1, sample: digests(32) };
    expect(decodeTreeSummary(encodeTreeSummary(valid))).toEqual(valid);
    const wrong = [{ metadataBytes: 0 }, { wireBytes: 0 }, { sample: [] }];
    for (const part of [...wrong, { sample: digests(33) }]) {
      const bytes = encodeTreeSummary({ ...valid, ...part });
      expect(() => decodeTreeSummary(bytes)).toThrow(/^summary: /);
    }
  });

  test("a recipe has at most 2^18 chunks in all, and a blob 65,536 occurrences", () => {
    const blobOf = (name: string, count: number): BlobRecipe => ({
      digest: digestOf(Buffer.from(name)),
      size: count * 131_072,
      chunks: Array.from({ length: count }, () => ({
        digest: "00".repeat(32) as Digest,
        size: 131_072,
        wireSize: undefined,
      })),
      occurrences: [],
    });
    const blobs = [blobOf("a", 131_072), blobOf("b", 131_072)];
    const full: Recipe = { references: [], blobs, plainWireSizes: [] };
    expect(decodeRecipe(encodeRecipe(full)).blobs).toHaveLength(2);
    const over = { ...full, blobs: [...blobs, blobOf("c", 2)] };
    expectExhausted(() => decodeRecipe(encodeRecipe(over)));
    const occurrences = Array.from({ length: OCCURRENCES_MAX + 1 }, (_, i) => ({
      offset: 32 * i,
      reference: 0,
    }));
    const many = { ...blobOf("d", 1000), occurrences };
    const recipe = { references: references.slice(0, 1), blobs: [many], plainWireSizes: [] };
    expect(() => decodeRecipe(encodeRecipe(recipe))).toThrow("over 65536 occurrences");
  });

  test("the recipe of 5,000 plain files is as long as their wire sizes", () => {
    const plainWireSizes = Array.from({ length: 5_000 }, (_, i) => 100 + i);
    const recipe = { references: [], blobs: [], plainWireSizes };
    expect(encodeRecipe(recipe).byteLength).toBeLessThan(2 * 5_000 + 8);
  });
});

describe("a recipe that does not fit its directories is refused", () => {
  const file = (name: string, size: number) => ({
    type: "file" as const,
    digest: digestOf(Buffer.from(name)),
    size,
    executable: false,
  });
  const listed: BlobRecipe = {
    digest: file("large", 0).digest,
    size: 600_000,
    chunks: [300_000, 300_000].map((size) => ({
      digest: digestOf(Buffer.of(9)),
      size,
      wireSize: 9,
    })),
    occurrences: [],
  };
  const files = [file("a", 1), file("large", 600_000), file("b", 2)];
  const recipe: Recipe = { references: [], blobs: [listed], plainWireSizes: [5, 6] };

  test("one that fits gives every blob in order", () => {
    const complete = completeRecipe(recipe, files);
    expect(complete.map((blob) => blob.digest)).toEqual(files.map((node) => node.digest));
    expect(complete.map((blob) => blob.chunks.map((chunk) => chunk.wireSize))).toEqual([
      [5],
      [9, 9],
      [6],
    ]);
    const silent = completeRecipe({ ...recipe, plainWireSizes: [] }, files);
    expect(silent[0]?.chunks).toEqual([{ digest: files[0]?.digest, size: 1, wireSize: undefined }]);
  });

  test.each([
    ["another size", recipe, [file("a", 1), file("large", 600_001), file("b", 2)]],
    ["a blob that is not below the root", recipe, [file("a", 1), file("b", 2)]],
    ["a large blob that is not listed", recipe, [...files, file("huge", 524_289)]],
    ["too few wire sizes", recipe, [...files, file("c", 3)]],
    ["too many wire sizes", recipe, files.slice(0, 2)],
  ])("%s", (_, misfit, nodes) => {
    const error = expect.toSatisfy((e) => isCastoreError(e, "INVALID"));
    expect(() => completeRecipe(misfit, nodes)).toThrow(error);
  });
});
