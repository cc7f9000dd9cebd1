import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { type CastoreErrorCode, isCastoreError } from "../src/castore-error.ts";
import { openLocalStore } from "../src/local/open-local-store.ts";
import { digestOf } from "../src/model/digest.ts";
import { directoryOf } from "../src/model/directory.ts";
import { openFileObjectStore } from "../src/objects/file-object-store.ts";
import { readAll } from "./blob-service-suite.ts";
import { withStore } from "./local-store-fixture.ts";
import { record } from "./root-store-suite.ts";
import { startStoreProcess, withMount } from "./store-process.ts";
import { createTemporaryDirectory } from "./temporary-directory.ts";
import { prngBytes } from "./vectors.ts";

const rejectsWith = async (promise: Promise<unknown>, code: CastoreErrorCode): Promise<void> => {
  await expect(promise).rejects.toSatisfy((error) => isCastoreError(error, code));
};

test("a store of a newer format is refused, and its format named", async () => {
  await using directory = await createTemporaryDirectory();
  const path = join(directory.path, "store");
  await (await openLocalStore({ path, create: true })).close();
  await writeFile(join(path, "format"), "castore-store 2\n");
  await rejectsWith(openLocalStore({ path, create: true }), "UNSUPPORTED");
  await expect(openLocalStore({ path })).rejects.toThrow(/castore-store 2/);
});

test("a path without a store, and one that is something else, are refused", async () => {
  await using directory = await createTemporaryDirectory();
  const path = join(directory.path, "store");
  await rejectsWith(openLocalStore({ path }), "UNAVAILABLE");
  await rejectsWith(openLocalStore({ path, create: true, readOnly: true }), "UNAVAILABLE");
  await mkdir(path);
  await writeFile(join(path, "precious"), "data");
  await rejectsWith(openLocalStore({ path, create: true }), "INVALID");
  expect(await readdir(path)).toEqual(["precious"]);
  await rejectsWith(openLocalStore({ path: join(path, "precious"), create: true }), "INVALID");
});

test("a store where no directory can be made is refused at once", async () => {
  // mkdir says ENOENT there, as if it were a parent that is missing.
  const path = "/proc/castore/store";
  await rejectsWith(openLocalStore({ path, create: true }), "UNAVAILABLE");
  await rejectsWith(openFileObjectStore(path), "UNAVAILABLE");
});

test("what a crash has left of a store that was being made is made anew", async () => {
  await using directory = await createTemporaryDirectory();
  const path = join(directory.path, "store");
  await mkdir(join(path, "blobs"), { recursive: true });
  await writeFile(join(path, "format.12345"), "cast");
  await using store = await openLocalStore({ path, create: true });
  const { digest } = await store.blobs.put([prngBytes(10_000)]);
  expect(await store.blobs.has(digest)).toBe(true);
});

test("a store that was opened for reading reads and refuses to write", async () => {
  await withStore(async (writable) => {
    const bytes = prngBytes(10_000);
    const { digest } = await writable.blobs.put([bytes]);
    await using store = await openLocalStore({ path: writable.path, readOnly: true });
    expect((await readAll(store.blobs, digest)).equals(bytes)).toBe(true);
    await rejectsWith(store.blobs.put([Buffer.alloc(1)]), "READ_ONLY");
    await rejectsWith(store.directories.putClosure([directoryOf([])]), "READ_ONLY");
    await rejectsWith(store.roots.put([record("key")]), "READ_ONLY");
    await rejectsWith(store.roots.delete("key"), "READ_ONLY");
    await rejectsWith(store.table("t").put([{ key: "k", value: Buffer.alloc(1) }]), "READ_ONLY");
    await rejectsWith(store.pins.put({ name: "pin", keys: [], nodes: [] }), "READ_ONLY");
    await rejectsWith(store.collectGarbage(), "READ_ONLY");
    store.roots.touch("key");
  });
});

test("a store on a disk that is mounted for reading can be read", async () => {
  await using directory = await createTemporaryDirectory();
  const path = join(directory.path, "store");
  const bytes = prngBytes(10_000);
  const digest = digestOf(bytes);
  await mkdir(path);
  await using store = await openLocalStore({ path, create: true });
  await store.blobs.put([bytes, Buffer.alloc(0)]);
  await store.close();
  const mirror = join(directory.path, "mirror");
  await mkdir(mirror);
  await withMount(mirror, ["-o", "bind,ro", path], async () => {
    await using mounted = await openLocalStore({ path: mirror, readOnly: true });
    expect((await readAll(mounted.blobs, digest)).equals(bytes)).toBe(true);
    await rejectsWith(openLocalStore({ path: mirror }), "READ_ONLY");
  });
});

test("every call after close() rejects CLOSED", async () => {
  await withStore(async (store) => {
    const { digest } = await store.blobs.put([Buffer.from("bytes")]);
    await store.close();
    await store.close();
    await rejectsWith(store.blobs.has(digest), "CLOSED");
    await rejectsWith(store.blobs.open(digest), "CLOSED");
    await rejectsWith(store.blobs.put([Buffer.alloc(1)]), "CLOSED");
    await rejectsWith(store.directories.get(digest), "CLOSED");
    await rejectsWith(store.roots.get("key"), "CLOSED");
    await rejectsWith(store.roots.put([record("key")]), "CLOSED");
    await rejectsWith(store.chunks.get({ digest }), "CLOSED");
    await rejectsWith(store.collectGarbage(), "CLOSED");
    expect(() => store.table("t").get("key")).toThrow(/closed/);
  });
});

test("a full disk rejects EXHAUSTED, loses nothing, and works again with room", async () => {
  await using directory = await createTemporaryDirectory();
  await withMount(directory.path, ["-t", "tmpfs", "-o", "size=28m", "tmpfs"], async () => {
    const path = join(directory.path, "store");
    await using store = await openLocalStore({ path, create: true });
    const kept: string[] = [];
    const put = async (seed: number, size: number): Promise<void> => {
      const bytes = Buffer.from(prngBytes(size));
      bytes.writeUInt32LE(seed, 0);
      const { digest } = await store.blobs.put([bytes]);
      await store.roots.put([
        record(`${seed}`, { node: { type: "file", digest, size, executable: false } }),
      ]);
      kept.push(`${seed}`);
    };
    const fill = async (size: number, base: number): Promise<unknown> => {
      for (let i = 0; i < 4000; i++) {
        try {
          await put(base + i, size);
        } catch (error) {
          return error;
        }
      }
      return undefined;
    };
    for (const [base, size] of [500_000, 4000, 100].entries()) {
      expect(isCastoreError(await fill(size, base * 10_000), "EXHAUSTED")).toBe(true);
    }
    for (const key of kept) {
      const root = await store.roots.get(key);
      if (root?.node.type !== "file") throw new Error(`root ${key} is lost`);
      const bytes = await readAll(store.blobs, root.node.digest);
      expect(digestOf(bytes)).toBe(root.node.digest);
    }
    expect((await readdir(join(path, "tmp"))).length).toBe(0);
    expect(kept.length).toBeGreaterThan(10);
    // A full disk must not keep one from making room.
    for (const key of kept.splice(0, 8)) await store.roots.delete(key);
    await store.collectGarbage();
    await put(99_999, 500_000);
  });
});

test("temporary files of dead processes are swept, those of live ones are not", async () => {
  await withStore(async (store) => {
    const script = `
      const never = async function* () {
        yield Buffer.alloc(1 << 20);
        say("spooling");
        await new Promise(() => setInterval(() => {}, 1000));
      };
      await store.blobs.put(never());
    `;
    const [dying, living] = [1, 2].map(() => startStoreProcess(store.path, script));
    if (dying === undefined || living === undefined) throw new Error("no process");
    await Promise.all([dying.lines.next(), living.lines.next()]);
    expect(await readdir(join(store.path, "tmp"))).toHaveLength(2);
    dying.child.kill("SIGKILL");
    await dying.ended;
    await (await openLocalStore({ path: store.path })).close();
    expect(await readdir(join(store.path, "tmp"))).toHaveLength(1);
    living.child.kill("SIGKILL");
    await living.ended;
    await (await openLocalStore({ path: store.path })).close();
    expect(await readdir(join(store.path, "tmp"))).toHaveLength(0);
    expect((await readFile(join(store.path, "format"), "latin1")).startsWith("castore")).toBe(true);
  });
});

test("the lease of a dead process holds nothing, that of a live one does", async () => {
  await withStore(async (store) => {
    const script = `
      await tree(1);
      say("put");
      setInterval(() => {}, 1000);
    `;
    const other = startStoreProcess(store.path, script);
    await other.lines.next();
    expect((await store.collectGarbage({ waitMs: 0 })).objectsHeld).toBe(4);
    other.child.kill("SIGKILL");
    await other.ended;
    expect(await store.collectGarbage({ waitMs: 0 })).toMatchObject({
      blobsDeleted: 2,
      objectsHeld: 0,
    });
  });
});

test("several processes put the same and different things at once", async () => {
  await withStore(async (store) => {
    const script = `
      await Promise.all(Array.from({ length: 40 }, async (_, i) => {
        const node = await tree(i);
        await store.roots.put([{ key: String(i), node, references: [], payload: Buffer.of(i) }]);
      }));
      await store.close();
    `;
    const processes = [1, 2, 3].map(() => startStoreProcess(store.path, script));
    for (const { ended } of processes) expect(await ended).toBe("");
    const report = await store.check();
    expect(report).toMatchObject({ faultCount: 0, missing: 0, roots: 40, blobs: 80 });
    expect(report.directories).toBe(80);
  });
});

test("more files than a process may have open are put at once", async () => {
  await withStore(async (store) => {
    const script = `
      const put = (_, i) => store.blobs.put([Buffer.alloc(5000, "file " + i)]);
      await Promise.all(Array.from({ length: 1000 }, put));
      await store.close();
    `;
    const wrapper = ["sh", "-c", 'ulimit -n 500; exec "$@"', "sh"];
    expect(await startStoreProcess(store.path, script, { wrapper }).ended).toBe("");
    expect(await store.check()).toMatchObject({ faultCount: 0, missing: 0, blobs: 1000 });
  });
});
