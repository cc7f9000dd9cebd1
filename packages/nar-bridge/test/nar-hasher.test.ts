import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type BlobService,
  CastoreError,
  createMemoryBlobService,
  createMemoryDirectoryService,
  ingestTree,
  isCastoreError,
  type TreeVisitor,
} from "@castore/castore";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createNarHasher } from "../src/nar/nar-hasher.ts";
import { calculateNar } from "../src/nar/nar-render.ts";

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "castore-hasher-"));
});
afterAll(() => rm(directory, { recursive: true, force: true }));

/** Sizes around which files are read, held and hashed in different ways. */
const SIZES = [0, 1, 7, 8, 4096, 4097, 65_536, 262_144, 262_145, 600_000, 1_048_577];

function services() {
  return { blobs: createMemoryBlobService(), directories: createMemoryDirectoryService() };
}

/** Makes the tree of a list of sizes, large and small mixed; some executable, some deep. */
async function makeTree(sizes: readonly number[]): Promise<string> {
  const path = await mkdtemp(join(directory, "tree-"));
  for (const [index, size] of sizes.entries()) {
    const parent = join(path, ...["sub", "deeper"].slice(0, index % 3));
    await mkdir(parent, { recursive: true });
    const file = join(parent, `file-${index}`);
    await writeFile(file, Buffer.alloc(size, `${index} `));
    if (index % 2 === 0) await chmod(file, 0o755);
    if (index % 4 === 0) await symlink(`to/${index}`, join(parent, `link-${index}`));
  }
  await mkdir(join(path, "empty"));
  return path;
}

test("a tree that is ingested once has the NAR that it is rendered to", async () => {
  const sizes = fc.array(fc.constantFrom(...SIZES), { maxLength: 12 });
  const run = async (list: readonly number[]): Promise<void> => {
    const path = await makeTree(list);
    const store = services();
    const visitor = createNarHasher();
    const node = await ingestTree(path, { ...store, visitor });
    expect(visitor.finish()).toEqual(await calculateNar(node, store));
    await rm(path, { recursive: true });
  };
  await fc.assert(fc.asyncProperty(sizes, run), { numRuns: 40 });
});

test("a root that is a file or a symlink has its NAR, too", async () => {
  for (const size of [100, 700_000]) {
    const file = join(directory, `root-${size}`);
    await writeFile(file, Buffer.alloc(size, "root"), { mode: 0o755 });
    const store = services();
    const visitor = createNarHasher();
    const node = await ingestTree(file, { ...store, visitor });
    expect(visitor.finish()).toEqual(await calculateNar(node, store));
  }
  const link = join(directory, "root-link");
  await symlink("elsewhere", link);
  const visitor = createNarHasher();
  const node = await ingestTree(link, { ...services(), visitor });
  expect(visitor.finish()).toEqual(await calculateNar(node, services()));
});

/** Rejects the put of a blob that is longer than `sizeMax`, before or after it has read it. */
function failing(blobs: BlobService, sizeMax: number, when: "before" | "after"): BlobService {
  return {
    ...blobs,
    async put(source, options) {
      if (when === "before" && !Array.isArray(source)) throw new CastoreError("EXHAUSTED", "full");
      const put = await blobs.put(source, options);
      if (put.size > sizeMax) throw new CastoreError("EXHAUSTED", "full");
      return put;
    },
  };
}

test.each(["before", "after"] as const)(
  "where a put fails %s it has read the file, the ingest ends, although others wait",
  async (when) => {
    const path = await makeTree([600_000, 600_000, 10, 600_000, 100, 600_000, 5]);
    const store = services();
    const blobs = failing(store.blobs, 100_000, when);
    const ingest = ingestTree(path, { ...store, blobs, visitor: createNarHasher() });
    await expect(ingest).rejects.toSatisfy((error) => isCastoreError(error, "EXHAUSTED"));
  },
);

test("what the visitor throws ends the ingest", async () => {
  const path = await makeTree([600_000, 10, 20, 600_000]);
  const visitor: TreeVisitor = {
    ...createNarHasher(),
    symlink() {
      throw new CastoreError("INVALID", "no symlinks");
    },
  };
  const ingest = ingestTree(path, { ...services(), visitor });
  await expect(ingest).rejects.toSatisfy((error) => isCastoreError(error, "INVALID"));
});

test("a tree too deep for a NAR is refused", () => {
  const visitor = createNarHasher();
  const descend = (): void => {
    for (let depth = 0; depth < 3000; depth++) visitor.openDirectory(undefined);
  };
  expect(descend).toThrow(/2048 directories within each other/);
});
