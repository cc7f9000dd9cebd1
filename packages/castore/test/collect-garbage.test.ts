import { mkdir, readdir, symlink, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { isCastoreError } from "../src/castore-error.ts";
import type { DirectoryNode, Node } from "../src/index.ts";
import type { LocalStore } from "../src/local/local-store.ts";
import { openLocalStore } from "../src/local/open-local-store.ts";
import { type Digest, digestOf } from "../src/model/digest.ts";
import { directoryOf } from "../src/model/directory.ts";
import { encodeDirectory } from "../src/model/directory-codec.ts";
import { pathComponentOfText } from "../src/model/path-component.ts";
import { analyze } from "./chunk-index-suite.ts";
import { withStore } from "./local-store-fixture.ts";
import { record } from "./root-store-suite.ts";
import { prngBytes } from "./vectors.ts";

/** What `put` stored. */
interface Tree {
  readonly node: DirectoryNode;
  readonly small: Digest;
  readonly large: Digest;
  readonly inner: Digest;
}

/** A tree of its own for each `seed`: /inner/small, /large. */
async function putTree(store: LocalStore, seed: number): Promise<Tree> {
  const large = Buffer.from(prngBytes(600_000));
  large.writeUInt32LE(seed, 0);
  const file = async (bytes: Uint8Array): Promise<Node & { type: "file" }> => {
    const { digest, size } = await store.blobs.put([bytes]);
    return { type: "file", digest, size, executable: false };
  };
  const smallNode = await file(Buffer.from(`small ${seed}`));
  const largeNode = await file(large);
  const inner = directoryOf([{ name: pathComponentOfText("small"), node: smallNode }]);
  const innerNode = {
    type: "directory",
    digest: digestOf(encodeDirectory(inner)),
    size: inner.size,
  };
  const root = directoryOf([
    { name: pathComponentOfText("inner"), node: { ...innerNode, type: "directory" } },
    { name: pathComponentOfText("large"), node: largeNode },
  ]);
  const digest = await store.directories.putClosure([inner, root]);
  return {
    node: { type: "directory", digest, size: root.size },
    small: smallNode.digest,
    large: largeNode.digest,
    inner: innerNode.digest,
  };
}

/** Which parts of the tree are there: all, none, or how many. */
async function presence(store: LocalStore, tree: Tree): Promise<"all" | "none" | number> {
  const parts = [
    await store.blobs.has(tree.small),
    await store.blobs.has(tree.large),
    (await store.directories.get(tree.inner)) !== undefined,
    (await store.directories.get(tree.node.digest)) !== undefined,
  ];
  const count = parts.filter(Boolean).length;
  return count === 4 ? "all" : count === 0 ? "none" : count;
}

async function allOf<T>(items: AsyncIterable<T>, of: (item: T) => string): Promise<string[]> {
  const all: string[] = [];
  for await (const item of items) all.push(of(item));
  return all;
}

async function fileCount(store: LocalStore): Promise<number> {
  const names = await readdir(join(store.path, "blobs"), { recursive: true });
  return names.filter((name) => name.length > 60).length;
}

test("collectGarbage() deletes what no root needs, and its files and chunks", async () => {
  await withStore(async (store) => {
    const kept = await putTree(store, 1);
    const garbage = await putTree(store, 2);
    await store.roots.put([record("kept", { node: kept.node })]);
    const report = await store.collectGarbage();
    expect(report).toMatchObject({
      rootsKept: 1,
      rootsEvicted: 0,
      blobsDeleted: 2,
      directoriesDeleted: 2,
      objectsHeld: 0,
    });
    expect(report.bytesFreed).toBeGreaterThan(600_000);
    expect(await presence(store, kept)).toBe("all");
    expect(await presence(store, garbage)).toBe("none");
    expect(await fileCount(store)).toBe(1);
    const chunk = analyze(prngBytes(600_000), []).chunks.at(-1);
    expect(await store.chunks.has([chunk?.digest ?? garbage.large])).toEqual([true]);
    await store.roots.delete("kept");
    await store.collectGarbage();
    expect(await presence(store, kept)).toBe("none");
    expect(await fileCount(store)).toBe(0);
    expect(await store.chunks.has([chunk?.digest ?? garbage.large])).toEqual([false]);
  });
});

test("a chunk that two blobs share outlives one of them", async () => {
  await withStore(async (store) => {
    const kept = await putTree(store, 1);
    await putTree(store, 2);
    await store.roots.put([record("kept", { node: kept.node })]);
    await store.collectGarbage();
    const last = analyze(prngBytes(600_000), []).chunks.at(-1);
    expect(last && digestOf((await store.chunks.get(last)) ?? Buffer.alloc(0))).toBe(last?.digest);
  });
});

test("a record keeps those it references, directly or not, itself included", async () => {
  await withStore(async (store) => {
    const trees = [];
    for (let i = 0; i < 3; i++) trees.push(await putTree(store, i));
    const references = [["0", "1"], ["2", "absent"], ["0"]];
    await store.roots.put(
      trees.map(({ node }, i) => record(`${i}`, { node, references: references[i] ?? [] })),
    );
    await store.pins.put({ name: "pin", keys: ["0", "absent"], nodes: [] });
    const { rootsEvicted } = await store.collectGarbage({ sizeMax: 0 });
    expect(rootsEvicted).toBe(0);
    for (const tree of trees) expect(await presence(store, tree)).toBe("all");
  });
});

test("a dry run says what would go, and changes nothing", async () => {
  await withStore(async (store) => {
    const garbage = await putTree(store, 1);
    const dry = await store.collectGarbage({ dryRun: true });
    expect(await presence(store, garbage)).toBe("all");
    expect(await store.collectGarbage()).toEqual(dry);
    expect(await presence(store, garbage)).toBe("none");
  });
});

test("pins hold nodes and roots until deleted, too old, or their link is gone", async () => {
  await withStore(async (store) => {
    const trees = [];
    for (let i = 0; i < 5; i++) trees.push(await putTree(store, i));
    const [plain, old, linked, byKey, mount] = trees;
    if (!plain || !old || !linked || !byKey || !mount) throw new Error("no tree");
    const path = join(store.path, "..", "result");
    await symlink("/nix/store/somewhere", path);
    await store.roots.put([record("key", { node: byKey.node })]);
    await store.pins.put({ name: "plain", keys: [], nodes: [plain.node] });
    await store.pins.put({ name: "old", keys: [], nodes: [old.node], ttlMs: 0 });
    const link = { path, target: "/nix/store/somewhere" };
    await store.pins.put({ name: "linked", keys: [], nodes: [linked.node], link });
    await store.pins.put({ name: "by key", keys: ["key"], nodes: [] });
    await store.pins.put({ name: "mount", keys: [], nodes: [mount.node], untilReboot: true });
    await store.collectGarbage({ sizeMax: 0 });
    expect(await Promise.all(trees.map((tree) => presence(store, tree)))).toEqual([
      "all",
      "none",
      "all",
      "all",
      "all",
    ]);
    await unlink(path);
    expect(await store.pins.delete("plain")).toBe(true);
    expect(await store.pins.delete("plain")).toBe(false);
    expect(await allOf(store.pins.list(), ({ name }) => name)).toEqual(["by key", "mount"]);
    await store.collectGarbage();
    expect(await presence(store, plain)).toBe("none");
    expect(await presence(store, linked)).toBe("none");
  });
});

test("a size limit evicts the records that were used least recently", async () => {
  await withStore(async (store) => {
    const trees = [];
    for (let i = 0; i < 5; i++) {
      const tree = await putTree(store, i);
      trees.push(tree);
      await store.roots.put([record(`${i}`, { node: tree.node })]);
    }
    store.roots.touch("0");
    const report = await store.collectGarbage({ sizeMax: 1_500_000 });
    expect(report).toMatchObject({ rootsKept: 2, rootsEvicted: 3 });
    expect(await Promise.all(trees.map((tree) => presence(store, tree)))).toEqual([
      "all",
      "none",
      "none",
      "none",
      "all",
    ]);
    expect(await store.roots.get("3")).toBeUndefined();
    expect(await store.roots.get("4")).toBeDefined();
  });
});

test("a put beyond the limit evicts in the background, and puts go on", async () => {
  await withStore(
    async (store) => {
      for (let i = 0; i < 12; i++) {
        const lease = store.lease();
        const { node } = await putTree(store, i);
        await store.roots.put([record(`${i}`, { node })]);
        lease.release();
        store.roots.touch("1");
        // Awaits the collection that the put may have started, and writes down what was touched.
        await store.collectGarbage({ dryRun: true });
      }
      // Every one of these awaits the collection that the put before it may have started.
      for (let i = 0; i < 4; i++) {
        await store.collectGarbage({ dryRun: true });
        await store.roots.put([record("marker")]);
      }
      const left = await allOf(store.roots.list(), ({ key }) => key);
      expect(left).toContain("11");
      expect(left).toContain("1");
      expect(left).not.toContain("0");
      expect(left.length).toBeLessThan(10);
    },
    { sizeMax: 3_000_000, unleasedMs: 0 },
  );
});

test("what a lease may need is kept until it is released", async () => {
  await withStore(async (store) => {
    const lease = store.lease();
    const tree = await putTree(store, 1);
    const report = await store.collectGarbage({ waitMs: 0 });
    expect(report).toMatchObject({ blobsDeleted: 0, directoriesDeleted: 0, objectsHeld: 4 });
    expect(await presence(store, tree)).toBe("all");
    lease.release();
    lease.release();
  });
});

test("garbage that a lease held goes with the next collection", async () => {
  await withStore(async (store) => {
    const lease = store.lease();
    const tree = await putTree(store, 1);
    await store.collectGarbage({ waitMs: 0 });
    lease.release();
    expect(await store.collectGarbage()).toMatchObject({ blobsDeleted: 2, objectsHeld: 0 });
    expect(await presence(store, tree)).toBe("none");
  });
});

test("what was seen after it was condemned is kept, and all below it", async () => {
  await withStore(async (store) => {
    const first = store.lease();
    const tree = await putTree(store, 1);
    await store.collectGarbage({ waitMs: 0 });
    first.release();
    using _second = store.lease();
    expect(await store.directories.get(tree.node.digest)).toBeDefined();
    await store.collectGarbage({ waitMs: 0 });
    expect(await presence(store, tree)).toBe("all");
    await store.roots.put([record("late", { node: tree.node })]);
    await store.collectGarbage({ waitMs: 0 });
    expect(await presence(store, tree)).toBe("all");
  });
});

test("what was put again after it was condemned is kept", async () => {
  await withStore(async (store) => {
    const first = store.lease();
    await putTree(store, 1);
    await store.collectGarbage({ waitMs: 0 });
    first.release();
    using _second = store.lease();
    const tree = await putTree(store, 1);
    await store.collectGarbage({ waitMs: 0 });
    expect(await presence(store, tree)).toBe("all");
  });
});

test("rows that name a node vanish with it, others stay", async () => {
  await withStore(async (store) => {
    const kept = await putTree(store, 1);
    const gone = await putTree(store, 2);
    await store.roots.put([record("kept", { node: kept.node })]);
    const table = store.table("test");
    await table.put([
      { key: "kept", node: kept.node, value: Buffer.from("1") },
      { key: "gone", node: gone.node, value: Buffer.from("2") },
      { key: "bare", value: Buffer.from("3") },
    ]);
    await store.collectGarbage();
    expect(await allOf(table.list(), ({ key }) => key)).toEqual(["bare", "kept"]);
  });
});

test("files that no row tells of are removed, others in their place are not", async () => {
  await withStore(async (store) => {
    const kept = await putTree(store, 1);
    await store.roots.put([record("kept", { node: kept.node })]);
    const bytes = prngBytes(5000);
    const digest = digestOf(bytes);
    const path = join(store.path, "blobs", digest.slice(0, 2));
    await mkdir(path, { recursive: true });
    await writeFile(join(path, digest.slice(2)), "half of it");
    await writeFile(join(path, "README"), "not a blob");
    const lease = store.lease();
    await store.collectGarbage({ waitMs: 0 });
    expect(await fileCount(store)).toBe(2);
    lease.release();
    await store.blobs.put([bytes]);
    await store.roots.put([
      record("late", { node: { type: "file", digest, size: 5000, executable: false } }),
    ]);
    await writeFile(join(path, `${digest.slice(2, -1)}${digest.endsWith("0") ? 1 : 0}`), "orphan");
    await store.collectGarbage();
    expect(await fileCount(store)).toBe(2);
    expect((await readdir(path)).sort()).toEqual([digest.slice(2), "README"].sort());
    expect(await store.blobs.has(digest)).toBe(true);
  });
});

test("a collection that is told to end rejects with the reason; the next works", async () => {
  await withStore(async (store) => {
    using _lease = store.lease();
    await putTree(store, 1);
    const controller = new AbortController();
    const reason = new Error("enough");
    const collection = store.collectGarbage({ waitMs: 600_000, signal: controller.signal });
    await store.collectGarbage({ dryRun: true, signal: AbortSignal.abort(reason) }).catch(() => {});
    controller.abort(reason);
    await expect(collection).rejects.toBe(reason);
    expect((await store.collectGarbage({ waitMs: 0 })).objectsHeld).toBe(4);
  });
});

test("a damaged directory that a root needs stops the collection", async () => {
  await withStore(async (store) => {
    const tree = await putTree(store, 1);
    await store.roots.put([record("root", { node: tree.node })]);
    await damageDirectory(store, tree.inner);
    const garbage = await putTree(store, 2);
    await expect(store.collectGarbage()).rejects.toSatisfy((error) =>
      isCastoreError(error, "CORRUPT"),
    );
    expect(await presence(store, garbage)).toBe("all");
  });
});

async function damageDirectory(store: LocalStore, digest: Digest): Promise<void> {
  const { openStoreIndex } = await import("../src/local/store-index.ts");
  const index = openStoreIndex(join(store.path, "index"), {});
  const key = Buffer.from(digest, "hex");
  index.transaction(() => {
    const row = Buffer.from(index.rows.directories.getBinary(key) ?? []);
    row[row.length - 1] = (row.at(-1) ?? 0) ^ 1;
    index.rows.directories.putSync(key, row);
  });
  await index.close();
}

test("two stores that are open at once, here or elsewhere, see each other's leases", async () => {
  await withStore(async (store) => {
    await using other = await openLocalStore({ path: store.path });
    const tree = await putTree(other, 1);
    expect((await store.collectGarbage({ waitMs: 0 })).objectsHeld).toBe(4);
    expect(await presence(store, tree)).toBe("all");
    await other.close();
    // Seen above by this store, outside any lease: collectGarbage lets go of that.
    await store.collectGarbage();
    expect(await presence(store, tree)).toBe("none");
  });
});
