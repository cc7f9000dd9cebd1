import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import {
  type Directory,
  type LocalStore,
  openLocalStore,
  parsePathComponent,
  pathComponentOfText,
} from "@castore/castore";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { compareTrees } from "../../../test/support/compare-trees.ts";
import { buildErofsImage } from "../src/erofs-image.ts";
import { directoryBytes } from "../src/erofs-inode.ts";
import { loadSyscalls, MOUNT_FLAG } from "../src/syscalls.ts";
import { output, temporaryDirectory } from "./mount-fixture.ts";
import { storePath } from "./store-path.js";

const INLINE_BYTES_MAX = 4096;

describe("an EROFS image", () => {
  let base: string;
  let store: LocalStore;
  let image: Buffer;

  beforeAll(async () => {
    base = await temporaryDirectory();
    store = await openLocalStore({ path: `${base}/store`, create: true });
    const script = `mkdir -p '${base}/tree' && cd '${base}/tree' && mkdir many empty deep
      for i in $(seq 700); do echo "small $i" >many/some-longer-name-$i; done
      mkdir -p deep/a/b/c twin; echo twin >twin/file; cp -r twin deep/a/b/c/twin
      head -c 300000 /dev/urandom >large; head -c 4096 /dev/urandom >block; : >nothing
      head -c 4000 /dev/urandom >odd; printf '#!/bin/sh\\necho ran\\n' >run; chmod 555 run
      ln -s run link; ln -s "$(printf 't%.0s' $(seq 4095))" long-link; echo 1 >+before-dots
      touch "$(printf 'n%.0s' $(seq 255))" "$(printf '\\377\\001\\n')" .hidden
      find . -type f ! -perm 555 -exec chmod 444 {} +
      find . -type d -exec chmod 555 {} +; find . -exec touch -h -d @1 {} +`;
    await output(script);
    const node = await storePath(store, `${base}/tree`);
    const roots = [
      [pathComponentOfText("t"), node],
      [parsePathComponent(Buffer.from("again")), node],
    ] as const;
    image = await buildErofsImage(roots, {
      async directory(digest) {
        const found: Directory | undefined = await store.directories.get(digest);
        if (found === undefined) throw new Error(`directory ${digest}`);
        return found;
      },
      async inline({ digest, size }) {
        if (size > INLINE_BYTES_MAX) return undefined;
        const reader = await store.blobs.open(digest);
        const pieces = [];
        for await (const piece of reader?.stream() ?? []) pieces.push(piece);
        await reader?.close();
        return Buffer.concat(pieces);
      },
      objectPath: ({ digest }) => `/${digest.slice(0, 2)}/${digest.slice(2)}`,
    });
    await writeFile(`${base}/image`, image);
    await mkdir(`${base}/erofs`);
    await mkdir(`${base}/mnt`);
    const syscalls = await loadSyscalls();
    syscalls?.mount({
      source: `${base}/image`,
      target: `${base}/erofs`,
      type: "erofs",
      flags: MOUNT_FLAG.RDONLY,
      data: "",
    });
    const layers = `lowerdir=${base}/erofs::${base}/store/blobs`;
    await output(
      `mount -t overlay -o ro,metacopy=on,redirect_dir=on,${layers} overlay '${base}/mnt'`,
    );
  });
  afterAll(async () => {
    await output(`umount '${base}/mnt'; umount '${base}/erofs'`);
    await store.close();
    await rm(base, { recursive: true });
  });

  it("over the blobs of a store is the tree, at each of its places", async () => {
    expect(await compareTrees(`${base}/tree`, `${base}/mnt/t`)).toEqual([]);
    expect(await compareTrees(`${base}/tree`, `${base}/mnt/again`)).toEqual([]);
    expect(await output(`'${base}/mnt/t/run'; '${base}/mnt/again/link'`)).toBe("ran\nran\n");
  });

  it("has all that stat and readdir tell, and small files, without the blobs", async () => {
    const find = "find . -type f -printf '%P %s %m\\0' -o -printf '%P %y %l\\0' | sort -z";
    expect(await output(`cd '${base}/erofs/t'; ${find}`)).toBe(
      await output(`cd '${base}/tree'; ${find}`),
    );
    expect(await output(`cmp '${base}/erofs/t/odd' '${base}/tree/odd'`)).toBe("");
    expect(await output(`cat '${base}/erofs/t/many/some-longer-name-700'`)).toBe("small 700\n");
  });

  it("says where the others lie, and holds nothing of them", async () => {
    const large = await readFile(`${base}/tree/large`);
    expect(image.includes(large.subarray(1000, 1100))).toBe(false);
    const get = "import os, sys; print(os.getxattr(sys.argv[1], sys.argv[2]).decode())";
    const attribute = "trusted.overlay.redirect";
    const names = await output(`python3 -c '${get}' '${base}/erofs/t/large' ${attribute}`);
    expect(names).toMatch(/^\/[0-9a-f]{2}\/[0-9a-f]{62}\n$/);
  });

  it("has an inode of its own for each position", async () => {
    const inodes = (await output(`find '${base}/erofs' -printf '%i\\n'`)).trim().split("\n");
    expect(new Set(inodes).size).toBe(inodes.length);
  });

  it("is whole blocks, the first with the superblock", () => {
    expect(image.length % 4096).toBe(0);
    expect(image.toString("hex", 1024, 1028)).toBe("e2e1f5e0");
  });
});

it("a directory is one entry of 12 bytes per name, in bytewise order, then the names", () => {
  const entry = (name: string, nid: number) => ({ name, nid, type: "directory" as const });
  expect(directoryBytes([entry("..", 1), entry(".", 1), entry("+", 7)]).toString("hex")).toBe(
    "0700000000000000" +
      "24000200" +
      "0100000000000000" +
      "25000200" +
      "0100000000000000" +
      "26000200" +
      "2b2e2e2e",
  );
});
