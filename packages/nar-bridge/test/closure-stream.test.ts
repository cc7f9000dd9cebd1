import { digestOf } from "@castore/castore";
import fc from "fast-check";
import { expect, test } from "vitest";
import { parseStoreHash } from "../src/nix/store-path.ts";
import {
  type ClosureRecord,
  decodeClosureStream,
  encodeClosureStream,
} from "../src/path-infos/closure-stream.ts";

const HASH = parseStoreHash("00bgd045z0d4icpbc2yyz4gx48ak44la");
const RECORDS: readonly ClosureRecord[] = [
  { kind: "pathInfo", bytes: Buffer.from("info") },
  { kind: "directory", bytes: Buffer.alloc(0) },
  { kind: "recipe", root: digestOf(Buffer.from("root")), bytes: Buffer.from("recipe") },
  { kind: "summary", bytes: Buffer.from("summary") },
  { kind: "absent", storeHash: HASH },
  { kind: "leftOut", storeHash: HASH },
];

async function* each<T>(items: Iterable<T>): AsyncGenerator<T> {
  yield* items;
}

async function encoded(records: readonly ClosureRecord[]): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of encodeClosureStream(each(records))) pieces.push(piece);
  return Buffer.concat(pieces);
}

async function decoded(pieces: Iterable<Uint8Array>): Promise<ClosureRecord[]> {
  const records: ClosureRecord[] = [];
  for await (const record of decodeClosureStream(pieces)) records.push(record);
  return records;
}

test("records survive the way through the encoding, however it is cut into pieces", async () => {
  const bytes = await encoded(RECORDS);
  const sizes = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 });
  await fc.assert(
    fc.asyncProperty(sizes, async (cuts) => {
      const pieces: Uint8Array[] = [];
      for (let at = 0, i = 0; at < bytes.byteLength; i++) {
        const size = cuts[i % cuts.length] ?? 1;
        pieces.push(bytes.subarray(at, at + size));
        at += size;
      }
      expect(await decoded(pieces)).toEqual(RECORDS);
    }),
    { numRuns: 50 },
  );
});

test("a stream that is cut anywhere is refused as incomplete", async () => {
  const bytes = await encoded(RECORDS);
  for (let end = 0; end < bytes.byteLength; end++) {
    await expect(decoded([bytes.subarray(0, end)])).rejects.toMatchObject({ code: "INCOMPLETE" });
  }
});

test("an end that counts wrong, bytes after it and unknown kinds are refused", async () => {
  const bytes = await encoded(RECORDS);
  const miscounted = Buffer.from(bytes);
  miscounted[miscounted.byteLength - 1] = 9;
  await expect(decoded([miscounted])).rejects.toMatchObject({ code: "INVALID" });
  await expect(decoded([bytes, Buffer.from("x")])).resolves.toHaveLength(RECORDS.length);
  await expect(decoded([Buffer.concat([bytes, Buffer.from("x")])])).rejects.toMatchObject({
    code: "INVALID",
  });
  await expect(decoded([Buffer.from([9, 0, 0, 0, 0])])).rejects.toThrow("unknown kind 9");
});

test("a record that claims to be huge is refused before memory is spent on it", async () => {
  await expect(decoded([Buffer.from([2, 0xff, 0xff, 0xff, 0xff])])).rejects.toMatchObject({
    code: "EXHAUSTED",
  });
});
