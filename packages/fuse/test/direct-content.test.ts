import { open, rm } from "node:fs/promises";
import {
  type BlobService,
  CastoreError,
  createStaticRootNodes,
  digestBytes,
  digestOf,
  directoryOf,
  type Entry,
  encodeDirectory,
  type LocalStore,
  localDirectContent,
  type Node,
  openLocalStore,
  pathComponentOfText,
} from "@castore/castore";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { MountOptions } from "../src/mount.ts";
import {
  createMemoryStore,
  type MountedStore,
  mountTemporary,
  output,
  temporaryDirectory,
} from "./mount-fixture.ts";

const sizes = [0, 1, 4096, 4097, 65_536, 3_000_001];
const contentOf = (size: number): Buffer =>
  Buffer.from(Uint8Array.from({ length: size }, (_, i) => (i * 7 + size) % 251));
const text = pathComponentOfText;

describe("blobs that lie in a local store", () => {
  let base: string;
  let store: LocalStore;
  const roots = createStaticRootNodes();

  beforeAll(async () => {
    base = await temporaryDirectory();
    store = await openLocalStore({ path: `${base}/store`, create: true });
    for (const size of sizes) {
      const { digest } = await store.blobs.put([contentOf(size)]);
      const node: Node = { type: "file", digest, size, executable: false };
      roots.set(text(`f${size}`), { node });
    }
    const script = Buffer.from(`#!/bin/sh\necho ran\nexit\n${"#".repeat(100_000)}`);
    const { digest, size } = await store.blobs.put([script]);
    roots.set(text("program"), { node: { type: "file", digest, size, executable: true } });
  });
  afterAll(async () => {
    await store.close();
    await rm(base, { recursive: true });
  });

  /** Nobody may be asked for a blob. */
  const noBlobs: BlobService = {
    ...createMemoryStore().blobs,
    async open(digest) {
      throw new CastoreError("UNAVAILABLE", `asked for blob ${digest}`);
    },
  };

  async function mounted(options: Partial<MountOptions> = {}): Promise<MountedStore> {
    const content = localDirectContent(store);
    return mountTemporary(
      { ...createMemoryStore(), roots, blobs: noBlobs },
      { content, ...options },
    );
  }

  async function expectContents(m: MountedStore): Promise<void> {
    const sums = await output(
      `cd '${m.base}/mnt' && b2sum ${sizes.map((size) => `f${size}`).join(" ")}`,
    );
    await output(`mkdir '${m.base}/copy'`);
    for (const size of sizes) {
      const file = await open(`${m.base}/copy/f${size}`, "w");
      await file.writeFile(contentOf(size));
      await file.close();
    }
    expect(sums).toBe(
      await output(`cd '${m.base}/copy' && b2sum ${sizes.map((size) => `f${size}`).join(" ")}`),
    );
    expect(m.log).toEqual([]);
  }

  it("are read without asking for them", async () => {
    await using m = await mounted();
    await expectContents(m);
    expect(m.mount.requests("READ")).toBeGreaterThan(0);
    expect(await output(`'${m.base}/mnt/program'`)).toBe("ran\n");
  });

  it.each([false, true])(
    "are in the page cache before they are read in order (%s)",
    async (pass) => {
      const names = Array.from({ length: 60 }, (_, index) => `g${String(index).padStart(2, "0")}`);
      const other = createMemoryStore();
      const entries: Entry[] = [];
      for (const [index, entry] of names.entries()) {
        const { digest, size } = await store.blobs.put([contentOf(1 + index * 150)]);
        entries.push({
          name: text(entry),
          node: { type: "file", digest, size, executable: false },
        });
      }
      const directory = directoryOf(entries);
      await other.directories.putClosure([directory]);
      const digest = digestOf(encodeDirectory(directory));
      other.roots.set(text("d"), { node: { type: "directory", digest, size: directory.size } });
      const options = { content: localDirectContent(store), passthrough: pass };
      await using m = await mountTemporary({ ...other, blobs: noBlobs }, options);
      const all = (from: number) => names.slice(from).map((name) => `'${m.base}/mnt/d/${name}'`);
      await output(`ls -l '${m.base}/mnt/d'; cat ${all(0).slice(0, 3).join(" ")}`);
      // All but the last one, which tells that somebody came so far.
      await output(`for f in ${all(3).slice(0, -1).join(" ")}; do
      until [ "$(fincore -nbo PAGES $f)" -gt 0 ]; do sleep 0.01; done; done`);
      expect(m.mount.requests("READ")).toBe(3);
      const wanted = Buffer.concat(names.map((_, index) => contentOf(1 + index * 150)));
      expect((await output(`cat ${all(0).join(" ")}`)) === wanted.toString("latin1")).toBe(true);
      expect(m.mount.requests("READ")).toBe(4);
      expect(m.log).toEqual([]);
    },
  );

  it("are read by the kernel itself with passthrough, the large ones", async () => {
    await using m = await mounted({ passthrough: true });
    await expectContents(m);
    // One each for the files below 64 KiB that are not empty.
    expect(m.mount.requests("READ")).toBe(3);
    expect(m.mount.requests("OPEN")).toBe(sizes.length);
    expect(await output(`'${m.base}/mnt/program'; '${m.base}/mnt/program'`)).toBe("ran\nran\n");
  });

  it("keep their way of being read while they are open, however often", async () => {
    await using m = await mounted({ passthrough: true });
    const at = `${m.base}/mnt`;
    const script = `exec 3<'${at}/f3000001' 4<'${at}/f3000001'; head -c 5 <&3 | xxd -p; exec 3<&-
      b2sum <&4; b2sum <'${at}/f3000001'; '${at}/program'`;
    const [, first, second, ran] = (await output(script)).split("\n");
    expect(first).toBe(second);
    expect(ran).toBe("ran");
    expect(m.mount.requests("READ")).toBe(0);
  });

  it("that are not there are asked for, and stay so while they are open", async () => {
    const other = createMemoryStore();
    const bytes = contentOf(200_000);
    const { digest, size } = await other.blobs.put([bytes]);
    const node: Node = { type: "file", digest, size, executable: false };
    other.roots.set(text("late"), { node });
    await using m = await mountTemporary(other, {
      content: localDirectContent(store),
      passthrough: true,
    });
    const file = `${m.base}/mnt/late`;
    const handle = await open(file);
    const part = Buffer.alloc(100);
    await handle.read(part, 0, 100, 150_000);
    expect(part.equals(bytes.subarray(150_000, 150_100))).toBe(true);
    await store.blobs.put([bytes]);
    const sum = await output(`b2sum <'${file}'`);
    expect(sum.length).toBeGreaterThan(100);
    await handle.close();
    const reads = m.mount.requests("READ");
    expect(await output(`b2sum <'${file}'`)).toBe(sum);
    expect(m.mount.requests("READ")).toBe(reads);
    expect(m.log).toEqual([]);
  });

  it("give false where they are shorter than what is wanted", async () => {
    const { openDirectContent } = await import(localDirectContent(store).module);
    const content = openDirectContent(store.path);
    const target = Buffer.alloc(5000);
    for (const size of [1, 4096, 4097]) {
      const digest = digestBytes(digestOf(contentOf(size)));
      expect(content.read(digest, { start: 0, end: size, at: 3 }, target)).toBe(true);
      expect(target.subarray(3, 3 + size).equals(contentOf(size))).toBe(true);
      expect(content.read(digest, { start: 0, end: size + 1, at: 0 }, target)).toBe(false);
      expect(content.descriptor(digest) === undefined).toBe(size <= 4096);
    }
    content.close();
  });
});
