import { readdirSync, statSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { RecentBlobs } from "../src/local/recent-blobs.ts";
import { openDirectContent } from "../src/local/recent-direct-content.ts";
import { digestBytes, digestOf } from "../src/model/digest.ts";
import { describeBlobService, readAll } from "./blob-service-suite.ts";
import { createTemporaryDirectory } from "./temporary-directory.ts";

const PAGE_BYTES = 4096;

async function fixture(sizeMax = 64 << 20) {
  const directory = await createTemporaryDirectory();
  const path = join(directory.path, "recent");
  const blobs = new RecentBlobs({ path, sizeMax });
  const bytesOnDisk = () => {
    const sizes = readdirSync(path).map((name) => statSync(join(path, name)).size);
    return sizes.reduce((sum, size) => sum + Math.ceil(size / PAGE_BYTES) * PAGE_BYTES, 0);
  };
  const close = async () => directory[Symbol.asyncDispose]();
  return { service: blobs, blobs, path, bytesOnDisk, close, [Symbol.asyncDispose]: close };
}

describeBlobService("recent", () => fixture());

const noise = (index: number, size: number) => Buffer.alloc(size, `${index} `);

it("keeps to its limit, and what was used last", async () => {
  await using made = await fixture(10 * PAGE_BYTES);
  const { blobs, bytesOnDisk } = made;
  const first = noise(0, PAGE_BYTES);
  await blobs.put([first]);
  for (let index = 1; index < 40; index++) {
    await blobs.put([noise(index, 100), noise(index, PAGE_BYTES)]);
    expect((await readAll(blobs, digestOf(first))).equals(first)).toBe(true);
    expect(blobs.size).toBeLessThanOrEqual(10 * PAGE_BYTES);
    expect(bytesOnDisk()).toBe(blobs.size);
    // The four before it and the first, at two pages and one.
    for (let before = 0; before < Math.min(index, 4); before++) {
      const bytes = Buffer.concat([noise(index - before, 100), noise(index - before, PAGE_BYTES)]);
      expect(await blobs.has(digestOf(bytes))).toBe(true);
    }
  }
  expect(bytesOnDisk()).toBe(9 * PAGE_BYTES);
});

it("believes who has proven the bytes, and nobody else", async () => {
  await using made = await fixture();
  const { blobs } = made;
  const wanted = digestOf(Buffer.from("one"));
  const other = [Buffer.from("two")];
  await expect(blobs.put(other, { expect: wanted })).rejects.toMatchObject({ code: "CORRUPT" });
  expect(await blobs.has(wanted)).toBe(false);
  const put = await blobs.put([Buffer.from("one")], { expect: wanted, proven: true });
  expect(put).toEqual({ digest: wanted, size: 3 });
  expect((await readAll(blobs, wanted)).toString()).toBe("one");
});

it("a read by somebody else counts where the file system notes it", async () => {
  await using made = await fixture(3 * PAGE_BYTES);
  const { blobs, path } = made;
  const all = [0, 1, 2, 3, 4].map((index) => noise(index, PAGE_BYTES));
  const [a, b, c] = all.map(digestOf);
  for (const bytes of all.slice(0, 3)) await blobs.put([bytes]);
  const later = new Date(Date.now() + 60_000);
  utimesSync(join(path, a ?? ""), later, later);
  for (const bytes of all.slice(3)) await blobs.put([bytes]);
  const isThere = await blobs.index.has([a, b, c].flatMap((it) => it ?? []));
  expect(isThere).toEqual([true, false, false]);
});

it("refuses what is larger than all its room, and forgets it", async () => {
  await using made = await fixture(4 * PAGE_BYTES);
  const { blobs, bytesOnDisk } = made;
  const pieces = [0, 1, 2, 3, 4].map((index) => noise(index, PAGE_BYTES));
  await expect(blobs.put(pieces)).rejects.toMatchObject({ code: "EXHAUSTED" });
  expect(blobs.size).toBe(0);
  expect(bytesOnDisk()).toBe(0);
  await blobs.put(pieces.slice(1));
  expect(blobs.size).toBe(4 * PAGE_BYTES);
});

it("its blobs are chunks, and another thread reads them until they go", async () => {
  await using made = await fixture(2 * PAGE_BYTES);
  const { blobs } = made;
  const bytes = noise(7, 3_000);
  const { digest } = await blobs.put([bytes]);
  expect(await blobs.index.get({ digest, size: 3_000 })).toEqual(bytes);
  expect(await blobs.index.get({ digest, size: 2_999 })).toBeUndefined();
  const direct = openDirectContent(blobs.content.argument);
  const target = Buffer.alloc(20);
  const read = (start: number, end: number) => {
    return direct.read(digestBytes(digest), { start, end, at: 5 }, target);
  };
  expect(read(10, 20)).toBe(true);
  expect(target.subarray(5, 15).equals(bytes.subarray(10, 20))).toBe(true);
  expect(read(2_995, 3_005)).toBe(false);
  for (const index of [1, 2]) await blobs.put([noise(index, PAGE_BYTES)]);
  expect(read(10, 20)).toBe(false);
});
