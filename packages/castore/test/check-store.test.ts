import { chmod, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { isCastoreError } from "../src/castore-error.ts";
import type { LocalStore } from "../src/local/local-store.ts";
import { type Digest, digestBytes, digestOf } from "../src/model/digest.ts";
import { directoryOf } from "../src/model/directory.ts";
import { pathComponentOfText } from "../src/model/path-component.ts";
import { readAll } from "./blob-service-suite.ts";
import { analyze } from "./chunk-index-suite.ts";
import { editRow, flipRow } from "./damaged-rows.ts";
import { withStore } from "./local-store-fixture.ts";
import { record } from "./root-store-suite.ts";
import { prngBytes } from "./vectors.ts";

const LARGE = prngBytes(600_000);
const SMALL = Buffer.from("small");

interface Stored {
  readonly large: Digest;
  readonly small: Digest;
  readonly directory: Digest;
}

async function fill(store: LocalStore): Promise<Stored> {
  const { digest: large } = await store.blobs.put([LARGE]);
  const { digest: small } = await store.blobs.put([SMALL]);
  const entry = (name: string, digest: Digest, size: number) => ({
    name: pathComponentOfText(name),
    node: { type: "file", digest, size, executable: false } as const,
  });
  const root = directoryOf([entry("l", large, LARGE.length), entry("s", small, SMALL.length)]);
  const directory = await store.directories.putClosure([root]);
  await store.roots.put([
    record("root", { node: { type: "directory", digest: directory, size: root.size } }),
  ]);
  await store.table("test").put([{ key: "row", value: Buffer.from("value") }]);
  return { large, small, directory };
}

function filePath(store: LocalStore, digest: Digest): string {
  return join(store.path, "blobs", digest.slice(0, 2), digest.slice(2));
}

async function flipFile(path: string): Promise<void> {
  await chmod(path, 0o644);
  const bytes = await readFile(path);
  bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 4;
  await writeFile(path, bytes);
}

test("a sound store has no fault", async () => {
  await withStore(async (store) => {
    await fill(store);
    expect(await store.check()).toEqual({
      directories: 1,
      blobs: 2,
      roots: 1,
      bytesRead: 600_000,
      faults: [],
      faultCount: 0,
      missing: 0,
      refetched: 0,
    });
  });
});

const DAMAGES: readonly (readonly [string, string, (s: LocalStore, d: Stored) => Promise<void>])[] =
  [
    ["a bit of a file is flipped", "blob", (s, d) => flipFile(filePath(s, d.large))],
    [
      "a file is cut short",
      "blob",
      async (s, d) => {
        await chmod(filePath(s, d.large), 0o644);
        await truncate(filePath(s, d.large), 1000);
      },
    ],
    ["a file is missing", "blob", (s, d) => rm(filePath(s, d.large))],
    [
      "a small blob's row is flipped",
      "blob",
      (s, d) => flipRow(s.path, "blobs", digestBytes(d.small)),
    ],
    [
      "a large blob's row is flipped",
      "blob",
      (s, d) => flipRow(s.path, "blobs", digestBytes(d.large)),
    ],
    [
      "a directory's row is flipped",
      "directory",
      (s, d) => flipRow(s.path, "directories", digestBytes(d.directory)),
    ],
  ];

test.each(DAMAGES)("%s: found, set aside, and fetched anew", async (_, kind, damage) => {
  await withStore(async (far) => {
    await fill(far);
    await withStore(async (store) => {
      const stored = await fill(store);
      await damage(store, stored);
      const found = await store.check();
      expect(found.faults[0]?.kind).toBe(kind);
      expect((await store.check()).faultCount).toBe(found.faultCount);
      const repaired = await store.check({ repair: true });
      expect(repaired).toMatchObject({ faultCount: found.faultCount, refetched: 0 });
      expect(repaired.missing).toBeGreaterThan(0);
      expect((await store.check()).faultCount).toBe(0);
      await damage(store, await fill(store));
      const again = await store.check({ repair: true, source: far });
      expect(again).toMatchObject({ refetched: 1 });
      expect(await store.check()).toMatchObject({ faultCount: 0, missing: 0 });
      expect((await readAll(store.blobs, stored.large)).equals(LARGE)).toBe(true);
      expect((await readAll(store.blobs, stored.small)).equals(SMALL)).toBe(true);
      expect(await store.directories.get(stored.directory)).toBeDefined();
    });
  });
});

test("a damaged root or row is found when it is read, and set aside", async () => {
  await withStore(async (store) => {
    await fill(store);
    await flipRow(store.path, "roots", Buffer.from("root"));
    await flipRow(store.path, "tables", Buffer.from("test\0row"));
    await expect(store.roots.get("root")).rejects.toSatisfy((error) =>
      isCastoreError(error, "CORRUPT"),
    );
    expect(() => store.table("test").get("row")).toThrow(/cannot be read/);
    expect((await store.check({ repair: true })).faults.map(({ kind }) => kind)).toEqual([
      "root",
      "row",
    ]);
    expect(await store.roots.get("root")).toBeUndefined();
    expect(store.table("test").get("row")).toBeUndefined();
    expect(await readdir(join(store.path, "quarantine"))).toHaveLength(2);
    expect((await store.check()).faultCount).toBe(0);
  });
});

test("rows of a blob that is gone, a wrong size and a foreign file are faults", async () => {
  await withStore(async (store) => {
    const { large } = await fill(store);
    await editRow(store.path, "blobs", digestBytes(large), () => undefined);
    const foreign = join(store.path, "blobs", large.slice(0, 2), "README");
    await writeFile(foreign, "not a blob");
    const { faults } = await store.check({ repair: true });
    expect(new Set(faults.map(({ kind }) => kind))).toEqual(new Set(["row", "file", "size"]));
    await rm(foreign);
    expect(await store.check()).toMatchObject({ faultCount: 0, missing: 1 });
    const chunks = analyze(LARGE, []).chunks.map(({ digest }) => digest);
    expect(await store.chunks.has(chunks)).toEqual(chunks.map(() => false));
  });
});

test("a blob whose file is damaged is refused when it is read, and healed by a put", async () => {
  await withStore(async (store) => {
    const { large } = await fill(store);
    const isCorrupt = (error: unknown): boolean => isCastoreError(error, "CORRUPT");
    await chmod(filePath(store, large), 0o644);
    await truncate(filePath(store, large), 599_999);
    await expect(store.blobs.open(large)).rejects.toSatisfy(isCorrupt);
    await rm(filePath(store, large));
    await expect(store.blobs.open(large)).rejects.toSatisfy(isCorrupt);
    await store.blobs.put([LARGE], { expect: large });
    expect(digestOf(await readAll(store.blobs, large))).toBe(large);
  });
});

test("a blob of the right size that a read found damaged is absent until it is put", async () => {
  await withStore(async (store) => {
    const { large } = await fill(store);
    const small = prngBytes(50_000);
    const { digest } = await store.blobs.put([small]);
    for (const [blob, bytes] of [[large, LARGE] as const, [digest, small] as const]) {
      await flipFile(filePath(store, blob));
      await expect(readAll(store.blobs, blob)).rejects.toThrow(/fsck --repair/);
      expect(await store.blobs.has(blob)).toBe(false);
      await store.blobs.put([bytes], { expect: blob });
      expect(await store.blobs.has(blob)).toBe(true);
      expect(digestOf(await readAll(store.blobs, blob))).toBe(blob);
    }
    expect(await store.check()).toMatchObject({ faultCount: 0 });
  });
});

test("a damaged row of a small blob or a directory is refused when it is read", async () => {
  await withStore(async (store) => {
    const { small, directory } = await fill(store);
    const isCorrupt = (error: unknown): boolean => isCastoreError(error, "CORRUPT");
    await flipRow(store.path, "blobs", digestBytes(small));
    await flipRow(store.path, "directories", digestBytes(directory));
    await expect(store.blobs.open(small)).rejects.toSatisfy(isCorrupt);
    await expect(store.directories.get(directory)).rejects.toSatisfy(isCorrupt);
    await store.blobs.put([SMALL]);
    expect((await readAll(store.blobs, small)).equals(SMALL)).toBe(true);
  });
});
