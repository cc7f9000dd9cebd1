import { chmod, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { LocalStore } from "../src/local/local-store.ts";
import { type Digest, digestOf } from "../src/model/digest.ts";
import {
  analyze,
  describeChunkIndex,
  expectChunks,
  REFERENCES,
  referring,
} from "./chunk-index-suite.ts";
import { storeFixture, withStore } from "./local-store-fixture.ts";
import { prngBytes } from "./vectors.ts";

describeChunkIndex("local", () =>
  storeFixture((store) => ({
    index: store.chunks,
    async add(bytes, references) {
      await store.blobsFor(references).put([new Uint8Array(bytes)]);
    },
  })),
);

function blobPath(store: LocalStore, digest: Digest): string {
  return join(store.path, "blobs", digest.slice(0, 2), digest.slice(2));
}

test("a chunk is found in another blob when a file is gone, short or flipped", async () => {
  await withStore(async (store) => {
    const one = referring(900_000, [10_000]);
    const other = Buffer.from(one);
    other.write(REFERENCES[1], 10_000, "latin1");
    const blobs = store.blobsFor(REFERENCES);
    const { digest } = await blobs.put([new Uint8Array(one)]);
    await blobs.put([new Uint8Array(other)]);
    const path = blobPath(store, digest);
    await chmod(path, 0o644);
    const flipped = Buffer.from(one);
    for (let i = 0; i < flipped.length; i += 1000) flipped[i] = (flipped[i] ?? 0) ^ 1;
    await writeFile(path, flipped);
    await expectChunks(store.chunks, one, analyze(one, REFERENCES));
    await truncate(path, 100_000);
    await expectChunks(store.chunks, one, analyze(one, REFERENCES));
    await rm(path);
    await expectChunks(store.chunks, one, analyze(one, REFERENCES));
  });
});

test("a chunk whose only place is damaged is absent", async () => {
  await withStore(async (store) => {
    const bytes = prngBytes(900_000);
    const { digest } = await store.blobs.put([new Uint8Array(bytes)]);
    await rm(blobPath(store, digest));
    for (const chunk of analyze(bytes, []).chunks) {
      expect(await store.chunks.get(chunk)).toBeUndefined();
    }
  });
});

test("chunks() are known for a blob put plainly, not for one in a normal form", async () => {
  await withStore(async (store) => {
    const bytes = referring(900_000, [10_000]);
    const { digest } = await store.blobsFor(REFERENCES).put([new Uint8Array(bytes)]);
    expect(await store.blobs.chunks(digest)).toEqual([]);
    await store.blobs.put([new Uint8Array(bytes)]);
    expect(await store.blobs.chunks(digest)).toEqual(analyze(bytes, []).chunks);
  });
});

test("chunks() lists a chunk that repeats as often as it does", async () => {
  await withStore(async (store) => {
    const bytes = Buffer.alloc(2_000_000);
    const { digest } = await store.blobs.put([bytes]);
    const chunks = await store.blobs.chunks(digest);
    expect(chunks).toEqual(analyze(bytes, []).chunks);
    expect(new Set(chunks?.map((chunk) => chunk.digest)).size).toBeLessThan(chunks?.length ?? 0);
  });
});

test("a digest that belongs to a blob and a chunk is served by either", async () => {
  await withStore(async (store) => {
    const bytes = prngBytes(900_000);
    const [first] = analyze(bytes, []).chunks;
    if (first === undefined) throw new Error("no chunk");
    await store.blobs.put([bytes.subarray(0, first.size)]);
    const got = await store.chunks.get(first);
    expect(digestOf(got ?? Buffer.alloc(0))).toBe(first.digest);
  });
});
