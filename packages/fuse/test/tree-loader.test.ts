import {
  createStaticRootNodes,
  type Digest,
  type Directory,
  digestOf,
  directoryOf,
  EMPTY_DIGEST,
  encodeDirectory,
  type Node,
  pathComponentOfText,
} from "@castore/castore";
import { expect, it } from "vitest";
import { InodeWriter } from "../src/inode-writer.ts";
import { TreeLoader } from "../src/tree-loader.ts";
import { createMemoryStore } from "./mount-fixture.ts";

const name = pathComponentOfText("d");

function pointerTo(directory: Directory): Node {
  const digest = digestOf(encodeDirectory(directory));
  return { type: "directory", digest, size: directory.size };
}

/** A root with 1,000 directories below it, no two alike. */
function treeOfMany() {
  const children = Array.from({ length: 1_000 }, (_, index) =>
    directoryOf([
      {
        name: pathComponentOfText(`file-${index}`),
        node: { type: "file", digest: EMPTY_DIGEST, size: 0, executable: false },
      },
    ]),
  );
  const root = directoryOf(
    children.map((child, index) => {
      return { name: pathComponentOfText(`${index}`), node: pointerTo(child) };
    }),
  );
  const encoded = [root, ...children].map(encodeDirectory);
  return { root, children, byDigest: new Map(encoded.map((bytes) => [digestOf(bytes), bytes])) };
}

it("who asks for one directory at hand does not wait for the others", async () => {
  const { root, byDigest } = treeOfMany();
  const roots = createStaticRootNodes();
  roots.set(name, { node: pointerTo(root) });
  const looked: Digest[] = [];
  const peek = (digest: Digest) => {
    looked.push(digest);
    return byDigest.get(digest);
  };
  const directories = { ...createMemoryStore().directories, peek };
  const table = new InodeWriter();
  const { signal } = new AbortController();
  const tree = new TreeLoader(table, { roots, directories, signal });
  await tree.rootName(name);
  const id = table.findRoot(name);
  await tree.entries(id);
  expect(looked.length).toBe(1);
  await tree.entries(table.firstChildOf(id) + 999);
  expect(new Set(looked).size).toBe(1_001);
});

it("what is not at hand is asked for, and each directory once", async () => {
  const { root, children, byDigest } = treeOfMany();
  const roots = createStaticRootNodes();
  roots.set(name, { node: pointerTo(root) });
  const { directories } = createMemoryStore();
  await directories.putClosure([...children, root]);
  const absent = digestOf(encodeDirectory(children[500] ?? root));
  const peek = (digest: Digest) => (digest === absent ? undefined : byDigest.get(digest));
  const table = new InodeWriter();
  const { signal } = new AbortController();
  const tree = new TreeLoader(table, { roots, directories: { ...directories, peek }, signal });
  await tree.rootName(name);
  const id = table.findRoot(name);
  await tree.entries(id);
  for (let child = 0; child < 1_000; child++) await tree.entries(table.firstChildOf(id) + child);
  expect(table.count).toBe(1 + 1 + 1_000 + 1_000);
  expect(table.nameOf(table.firstChildOf(table.firstChildOf(id)))).toBe("file-0");
});
