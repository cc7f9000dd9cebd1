import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { openLocalStore } from "../src/local/open-local-store.ts";
import { openStoreIndex } from "../src/local/store-index.ts";
import { liveLeases } from "../src/local/store-leases.ts";
import { digestOf } from "../src/model/digest.ts";
import { directoryOf } from "../src/model/directory.ts";
import { encodeDirectory } from "../src/model/directory-codec.ts";
import { createMemoryBlobService } from "../src/services/memory-blob-service.ts";
import { createMemoryDirectoryService } from "../src/services/memory-directory-service.ts";
import { ingestTree } from "../src/trees/tree-ingest.ts";
import { describeBlobService } from "./blob-service-suite.ts";
import { describeDirectoryService } from "./directory-service-suite.ts";
import { storeFixture } from "./local-store-fixture.ts";
import { describeRootStore } from "./root-store-suite.ts";
import { describeStoreTable } from "./store-table-suite.ts";
import { createTemporaryDirectory } from "./temporary-directory.ts";

describeBlobService("local", () => storeFixture((store) => store.blobs));

describeBlobService("local, private", () =>
  storeFixture((store) => store.blobs, { private: true }),
);

describeBlobService("local, in a normal form", () =>
  storeFixture((store) => store.blobsFor(["0123456789abcdfghijklmnpqrsvwxyz"])),
);

describeDirectoryService("local", () => storeFixture((store) => store.directories));

it("directories that are there are at hand, others are not", async () => {
  const { service, close } = await storeFixture((store) => store.directories);
  const inner = directoryOf([]);
  const digest = digestOf(encodeDirectory(inner));
  expect(service.peek(digest)).toBeUndefined();
  await service.putClosure([inner]);
  expect(service.peek(digest)).toEqual(encodeDirectory(inner));
  await close();
});

it("a private store has no index before its first write, and is as others then", async () => {
  await using directory = await createTemporaryDirectory();
  const path = join(directory.path, "store");
  const indexFiles = () => readdirSync(join(path, "index"));
  const digest = digestOf(Buffer.from("text"));
  {
    await using store = await openLocalStore({ path, create: true, private: true });
    expect(await store.blobs.has(digest)).toBe(false);
    expect(await store.chunks.has([digest])).toEqual([false]);
    expect(store.directories.peek(digest)).toBeUndefined();
    expect(store.table("test").get("key")).toBeUndefined();
    expect(store.stats()).toMatchObject({ blobs: 0, directories: 0, roots: 0, bytes: 0 });
    expect(indexFiles()).toEqual([]);
    await store.blobs.put([Buffer.from("text")]);
    expect(indexFiles()).not.toEqual([]);
    expect(await store.blobs.has(digest)).toBe(true);
    // From then on, other processes know of this one.
    const index = openStoreIndex(join(path, "index"), { readOnly: true });
    expect(liveLeases(index).size).toBe(1);
    await index.close();
  }
  await using store = await openLocalStore({ path, private: true });
  expect(store.stats()).toMatchObject({ blobs: 1 });
});

it("a private store whose first writes are many has them", async () => {
  await using directory = await createTemporaryDirectory();
  const path = join(directory.path, "store");
  await using store = await openLocalStore({ path, create: true, private: true });
  const blobs = Array.from({ length: 200 }, (_, i) => Buffer.alloc(40 * i, `${i} `));
  const put = await Promise.all(blobs.map((bytes) => store.blobs.put([bytes])));
  for (const { digest } of put) expect(await store.blobs.has(digest)).toBe(true);
  expect(await store.check()).toMatchObject({ faultCount: 0, missing: 0, blobs: 200 });
});

it("a tree of many small files is stored byte for byte, in memory that is used again", async () => {
  await using directory = await createTemporaryDirectory();
  const path = join(directory.path, "tree");
  for (let i = 0; i < 40; i++) {
    mkdirSync(join(path, `${i % 4}`, `${i}`), { recursive: true });
    for (let j = 0; j < 25; j++) {
      const contents = Buffer.alloc((i * 25 + j) * 13, `file ${i}, ${j}; `);
      writeFileSync(join(path, `${i % 4}`, `${i}`, `${j}`), contents);
    }
  }
  const memory = { blobs: createMemoryBlobService(), directories: createMemoryDirectoryService() };
  const node = await ingestTree(path, memory);
  const { service, close } = await storeFixture((store) => store);
  for (const blobs of [service.blobs, service.blobs, service.blobsFor([])]) {
    expect(await ingestTree(path, { ...service, blobs })).toEqual(node);
    expect(await service.check()).toMatchObject({ faultCount: 0, missing: 0, blobs: 1000 });
  }
  await close();
});

describeRootStore("local", () => storeFixture((store) => store));

describeStoreTable("local", () => storeFixture((store) => store.table("test")));
