import { readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { openLocalStore } from "../src/local/open-local-store.ts";
import { openStoreIndex } from "../src/local/store-index.ts";
import { liveLeases } from "../src/local/store-leases.ts";
import { digestOf } from "../src/model/digest.ts";
import { directoryOf } from "../src/model/directory.ts";
import { encodeDirectory } from "../src/model/directory-codec.ts";
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

describeRootStore("local", () => storeFixture((store) => store));

describeStoreTable("local", () => storeFixture((store) => store.table("test")));
