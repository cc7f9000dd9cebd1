import {
  createMemoryBlobService,
  createMemoryDirectoryService,
  type Directory,
  directoryOf,
  encodedDirectoryOf,
  type Node,
  type PathComponent,
  parsePathComponent,
  parseSymlinkTarget,
} from "@castore/castore";
import fc from "fast-check";
import type { NarServices } from "../src/nar/nar-layout.ts";
import { createNarReader } from "../src/nar/nar-reader.ts";

/** A tree as plain values; names and targets are in latin1. */
export type Tree =
  | { readonly type: "file"; readonly contents: Buffer; readonly executable: boolean }
  | { readonly type: "symlink"; readonly target: string }
  | { readonly type: "directory"; readonly entries: readonly (readonly [string, Tree])[] };

export function file(contents: Buffer | string, executable = false): Tree {
  return { type: "file", contents: Buffer.from(contents), executable };
}

export function directory(entries: Readonly<Record<string, Tree>>): Tree {
  const sorted = Object.entries(entries).sort(([a], [b]) => (a < b ? -1 : 1));
  return { type: "directory", entries: sorted };
}

/** A string of the NAR format. */
export function string(bytes: Buffer | string): Buffer {
  const data = typeof bytes === "string" ? Buffer.from(bytes, "latin1") : bytes;
  const encoded = Buffer.alloc(8 + 8 * Math.ceil(data.length / 8));
  encoded.writeBigUInt64LE(BigInt(data.length));
  encoded.set(data, 8);
  return encoded;
}

/** The NAR of `tree`, the slow and obvious way. */
export function encodeNar(tree: Tree): Buffer {
  return Buffer.concat([string("nix-archive-1"), ...encodeNode(tree)]);
}

function encodeNode(tree: Tree): Buffer[] {
  const inner = {
    file: (node: Tree & { type: "file" }) => [
      ...["regular", ...(node.executable ? ["executable", ""] : []), "contents"].map(string),
      string(node.contents),
    ],
    symlink: (node: Tree & { type: "symlink" }) => ["symlink", "target", node.target].map(string),
    directory: (node: Tree & { type: "directory" }) => [
      string("directory"),
      ...node.entries.flatMap(([name, child]) => [
        ...["entry", "(", "name", name, "node"].map(string),
        ...encodeNode(child),
        string(")"),
      ]),
    ],
  };
  const body =
    tree.type === "file"
      ? inner.file(tree)
      : tree.type === "symlink"
        ? inner.symlink(tree)
        : inner.directory(tree);
  return [string("("), string("type"), ...body, string(")")];
}

/** The tree that a NarReader visits. */
export function readTree(pieces: Iterable<Uint8Array>): Tree {
  let root: Tree | undefined;
  const open: [string, Tree][][] = [];
  const names: (string | undefined)[] = [];
  let contents: Buffer[] = [];
  let opened: { name: string | undefined; executable: boolean } | undefined;
  const add = (name: string | undefined, tree: Tree) => {
    if (name === undefined) root = tree;
    else open.at(-1)?.push([name, tree]);
  };
  const reader = createNarReader({
    openDirectory(name) {
      open.push([]);
      names.push(name);
    },
    closeDirectory() {
      const entries = open.pop() ?? [];
      add(names.pop(), { type: "directory", entries });
    },
    openFile(name, { executable }) {
      opened = { name, executable };
      contents = [];
    },
    contents: (bytes) => void contents.push(Buffer.from(bytes)),
    closeFile() {
      if (opened === undefined) throw new Error("no file is open");
      const { name, executable } = opened;
      add(name, { type: "file", contents: Buffer.concat(contents), executable });
    },
    symlink: (name, target) => add(name, { type: "symlink", target }),
  });
  for (const piece of pieces) reader.write(piece);
  reader.end();
  if (root === undefined) throw new Error("nothing was visited");
  return root;
}

export function memoryServices(): NarServices {
  return { blobs: createMemoryBlobService(), directories: createMemoryDirectoryService() };
}

/** Stores `tree` and returns its root node. */
export async function storeTree(tree: Tree, services: NarServices): Promise<Node> {
  const directories: Directory[] = [];
  const node = await storeNode(tree, services, directories);
  if (directories.length > 0) await services.directories.putClosure(directories);
  return node;
}

async function storeNode(tree: Tree, services: NarServices, done: Directory[]): Promise<Node> {
  if (tree.type === "symlink") {
    return { type: "symlink", target: parseSymlinkTarget(Buffer.from(tree.target, "latin1")) };
  }
  if (tree.type === "file") {
    const { digest, size } = await services.blobs.put([tree.contents]);
    return { type: "file", digest, size, executable: tree.executable };
  }
  const entries: { name: PathComponent; node: Node }[] = [];
  for (const [name, child] of tree.entries) {
    const node = await storeNode(child, services, done);
    entries.push({ name: parsePathComponent(Buffer.from(name, "latin1")), node });
  }
  const directory = directoryOf(entries);
  done.push(directory);
  return { type: "directory", digest: encodedDirectoryOf(directory).digest, size: directory.size };
}

const nameArbitrary = fc
  .oneof(
    fc.stringMatching(/^[a-z.]{1,9}$/),
    fc.uint8Array({ minLength: 1, maxLength: 255 }).map((b) => Buffer.from(b).toString("latin1")),
  )
  .map((name) => name.replaceAll(/[\0/]/g, "x"))
  .filter((name) => name !== "." && name !== "..");

/** Trees with all kinds of nodes, awkward names and lengths around multiples of 8. */
export const treeArbitrary: fc.Arbitrary<Tree> = fc.letrec<{ tree: Tree }>((tie) => ({
  tree: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc.record({
      type: fc.constant("file" as const),
      contents: fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
      executable: fc.boolean(),
    }),
    fc.record({ type: fc.constant("symlink" as const), target: nameArbitrary }),
    fc
      .uniqueArray(fc.tuple(nameArbitrary, tie("tree")), {
        selector: ([name]) => name,
        maxLength: 6,
      })
      .map((entries): Tree => directory(Object.fromEntries(entries))),
  ),
})).tree;

/** `bytes` cut at the given places. */
export function cutAt(bytes: Buffer, places: readonly number[]): Buffer[] {
  const sorted = [0, ...places.map((place) => place % (bytes.length + 1)), bytes.length];
  sorted.sort((a, b) => a - b);
  return sorted.slice(1).map((place, i) => bytes.subarray(sorted[i], place));
}

export async function gather(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of source) pieces.push(piece);
  return Buffer.concat(pieces);
}
