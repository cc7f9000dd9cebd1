import { mkdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import {
  analyze,
  describeChunkIndex,
  expectChunks,
  REFERENCES,
  referring,
} from "./chunk-index-suite.ts";
import { storeFixture, withStore } from "./local-store-fixture.ts";
import { prngBytes } from "./vectors.ts";

const OWN = "11111111111111111111111111111111";

/** /tree/<hash part>-name for each of REFERENCES, and `files` below one more. */
async function makeTree(
  path: string,
  files: Readonly<Record<string, Uint8Array>>,
): Promise<string> {
  for (const reference of REFERENCES) {
    await mkdir(join(path, `${reference}-dependency`), { recursive: true });
  }
  const own = join(path, `${OWN}-package`);
  for (const [name, bytes] of Object.entries(files)) {
    await mkdir(join(own, name, ".."), { recursive: true });
    await writeFile(join(own, name), bytes);
  }
  return own;
}

describeChunkIndex("seeds", () => {
  let added = 0;
  return storeFixture((store) => ({
    index: store.chunks,
    async add(bytes) {
      const path = join(store.path, "..", "tree");
      await makeTree(path, {});
      const entry = join(path, `${"0".repeat(31)}${added++ % 10}-entry`);
      await mkdir(entry, { recursive: true });
      await writeFile(join(entry, `file ${added}`), bytes);
      await store.seedTree(path);
    },
  }));
});

test("seeding again reads only entries that changed, and forgets what is gone", async () => {
  await withStore(async (store) => {
    const tree = join(store.path, "..", "tree");
    const bytes = referring(900_000, [1000]);
    const own = await makeTree(tree, { "bin/program": bytes, tiny: Buffer.alloc(10) });
    await symlink("bin/program", join(own, "link"));
    expect(await store.seedTree(tree)).toMatchObject({ filesIndexed: 1, bytesRead: 900_000 });
    expect(await store.seedTree(tree)).toMatchObject({ filesIndexed: 0, entriesSkipped: 3 });
    await expectChunks(store.chunks, bytes, analyze(bytes, REFERENCES));
    await rm(own, { recursive: true });
    expect(await store.seedTree(tree)).toMatchObject({ filesForgotten: 1, entriesSkipped: 2 });
    const [chunk] = analyze(bytes, REFERENCES).chunks;
    expect(await store.chunks.has(chunk === undefined ? [] : [chunk.digest])).toEqual([false]);
  });
});

test("a seed file that changed or vanished is a miss, and is not looked at again", async () => {
  await withStore(async (store) => {
    const tree = join(store.path, "..", "tree");
    const changed = prngBytes(5000);
    const gone = prngBytes(6000);
    const linked = prngBytes(7000);
    const own = await makeTree(tree, { changed, gone, linked });
    await store.seedTree(tree);
    await writeFile(join(own, "changed"), Buffer.alloc(5000));
    await rm(join(own, "gone"));
    await rename(join(own, "linked"), join(own, "target"));
    await symlink("target", join(own, "linked"));
    for (const bytes of [changed, gone, linked]) {
      const [chunk] = analyze(bytes, []).chunks;
      if (chunk === undefined) throw new Error("no chunk");
      expect(await store.chunks.has([chunk.digest])).toEqual([true]);
      expect(await store.chunks.get(chunk)).toBeUndefined();
      expect(await store.chunks.has([chunk.digest])).toEqual([false]);
    }
  });
});

test("a directory that is not there is an error that names it, and forgets no seed", async () => {
  await withStore(async (store) => {
    const tree = join(store.path, "..", "tree");
    const bytes = prngBytes(5000);
    await makeTree(tree, { bytes });
    await store.seedTree(tree);
    await rename(tree, `${tree}-away`);
    await expect(store.seedTree(tree)).rejects.toThrow(
      `no such file or directory, scandir '${tree}'`,
    );
    await rename(`${tree}-away`, tree);
    await expectChunks(store.chunks, bytes, analyze(bytes, []));
  });
});

test("seeds are read, never written, and a store's own blob comes first", async () => {
  await withStore(async (store) => {
    const tree = join(store.path, "..", "tree");
    const bytes = referring(900_000, [1000, 300_000]);
    const own = await makeTree(tree, { program: bytes });
    await store.seedTree(tree);
    await expectChunks(store.chunks, bytes, analyze(bytes, REFERENCES));
    expect((await readFile(join(own, "program"))).equals(bytes)).toBe(true);
    await store.blobsFor(REFERENCES).put([new Uint8Array(bytes)]);
    await rm(tree, { recursive: true });
    await expectChunks(store.chunks, bytes, analyze(bytes, REFERENCES));
    // Only places in seeds are forgotten by misses, and none was missed.
    const chunks = analyze(bytes, REFERENCES).chunks.map(({ digest }) => digest);
    expect(await store.chunks.has(chunks)).toEqual(chunks.map(() => true));
  });
});
