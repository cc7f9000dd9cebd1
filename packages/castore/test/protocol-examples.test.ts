import { expect, test } from "vitest";
import { hexExample, hexExampleNames } from "../../../test/support/doc-examples.ts";
import { decodeClosureRequest, encodeClosureRequest } from "../src/fetching/closure-request.ts";
import {
  decodeFetchAnswer,
  encodeFetchAnswer,
  type FetchFrame,
  fetchFrameContents,
} from "../src/fetching/fetch-answer.ts";
import { decodeFetchRequest, encodeFetchRequest } from "../src/fetching/fetch-request.ts";
import { digestOf } from "../src/model/digest.ts";
import { decodeRecipe, encodeRecipe } from "../src/recipes/recipe-codec.ts";
import { decodeTreeSummary, encodeTreeSummary } from "../src/recipes/tree-summary.ts";
import { join } from "./blob-service-suite.ts";

const example = (name: string) => hexExample("protocol.md", name);
const named = (text: string) => digestOf(Buffer.from(text));
const hashes = ["0a8dmrps7qxa5g3r6xzmyanhhmdmi2cd", "wdfnp9wkk2rfmpz47zjd4p2ngbvz5smy"] as const;

test("the examples of docs/protocol.md that are tested here are these", () => {
  const mine = ["Recipe", "Summary", "ClosureRequest", "FetchRequest", "FetchAnswer"];
  expect(hexExampleNames("protocol.md")).toEqual(expect.arrayContaining(mine));
});

test("Recipe", () => {
  const recipe = decodeRecipe(example("Recipe"));
  expect(recipe).toEqual({
    references: [hashes[0]],
    blobs: [
      {
        digest: named("a blob"),
        size: 600_000,
        chunks: [
          { digest: named("chunk 1"), size: 262_144, wireSize: 90_000 },
          { digest: named("chunk 2"), size: 337_856, wireSize: 100 },
        ],
        occurrences: [
          { offset: 11, reference: 0 },
          { offset: 1_043, reference: 0 },
        ],
      },
    ],
    plainWireSizes: [25, 300],
  });
  expect(encodeRecipe(recipe).equals(example("Recipe"))).toBe(true);
});

test("Summary", () => {
  const summary = decodeTreeSummary(example("Summary"));
  const sample = [named("Hello World!"), named("chunk 1"), named("chunk 1")];
  expect(summary).toEqual({ metadataBytes: 1_100, wireBytes: 120_000, sample });
  expect(encodeTreeSummary(summary).equals(example("Summary"))).toBe(true);
});

test("ClosureRequest", () => {
  const request = decodeClosureRequest(example("ClosureRequest"));
  const [known, wanted] = hashes.map((hash) => [hash]);
  expect(request).toEqual({ wanted, follow: true, known, summaries: true });
  expect(encodeClosureRequest(request).equals(example("ClosureRequest"))).toBe(true);
});

test("FetchRequest", () => {
  const request = decodeFetchRequest(example("FetchRequest"));
  expect(request).toEqual({
    chunks: [named("Hello World!"), named("chunk 1")],
    ranges: [{ digest: named("a blob"), start: 131_072, end: 131_076 }],
  });
  expect(encodeFetchRequest(request).equals(example("FetchRequest"))).toBe(true);
});

test("FetchAnswer", async () => {
  const frames: FetchFrame[] = [];
  for await (const frame of decodeFetchAnswer([example("FetchAnswer")], 3)) frames.push(frame);
  const contents = frames.map((frame) => Buffer.from(fetchFrameContents(frame)).toString());
  expect(frames.map(({ index, status }, i) => [index, status, contents[i]])).toEqual([
    [0, "done", "Hello World!"],
    [1, "missing", ""],
    [2, "more", "ab"],
    [2, "done", "cd"],
  ]);
  expect((await join(encodeFetchAnswer(frames))).equals(example("FetchAnswer"))).toBe(true);
});
