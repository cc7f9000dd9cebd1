import {
  type Directory,
  digestOf,
  directoryOf,
  encodeDirectory,
  type Node,
  parsePathComponent,
  parseSymlinkTarget,
  pathComponentOfText,
} from "@castore/castore";
import { expect, it } from "vitest";
import { InodeTable, type NamePlace } from "../src/inode-table.ts";
import { InodeWriter } from "../src/inode-writer.ts";
import { ROOT_ID } from "../src/protocol.ts";
import { Request } from "../src/request.ts";

const digest = digestOf(Buffer.from("content"));
const file: Node = { type: "file", digest, size: 7, executable: false };

function nodeOfDirectory(directory: Directory): Node {
  const encoded = encodeDirectory(directory);
  return { type: "directory", digest: digestOf(encoded), size: directory.size };
}

function place(name: string): NamePlace {
  const buffer = Buffer.from(name, "latin1");
  return { buffer, nameStart: 0, nameLength: buffer.length };
}

function lookup(name: string): Request {
  const request = new Request();
  const bytes = Buffer.alloc(40 + name.length + 1);
  bytes.writeUInt32LE(bytes.length, 0);
  bytes.write(name, 40, "latin1");
  request.load(bytes);
  return request;
}

it("a name in the root is found by its bytes, from another thread's view too", () => {
  const writer = new InodeWriter();
  const reader = new InodeTable(writer.memory);
  const name = parsePathComponent(Buffer.from([0xff, 0x01, 0x80]));
  const id = writer.setRoot(name, { node: file, lazy: true, final: false });
  expect(reader.rootChild(place("\xff\x01\x80"))).toBe(id);
  expect(reader.rootChild(place("\xff\x01"))).toBe(0);
  expect(reader.parentOf(id)).toBe(ROOT_ID);
  expect([reader.isLazy(id), reader.isFinal(id), reader.isHeld(id)]).toEqual([true, false, false]);
  expect(reader.digestOf(id)).toBe(digest);
  expect(reader.sizeOf(id)).toBe(7);
});

it("a name that keeps its node keeps its id, also after it was gone", () => {
  const writer = new InodeWriter();
  const a = pathComponentOfText("a");
  const root = { node: file, lazy: false, final: true };
  const id = writer.setRoot(a, root);
  writer.removeRoot(a);
  expect(writer.findRoot(a)).toBe(0);
  expect(writer.setRoot(a, root)).toBe(id);
  const other = writer.setRoot(a, { ...root, node: { ...file, executable: true } });
  expect(other).not.toBe(id);
  expect(writer.findRoot(a)).toBe(other);
  expect(writer.isGone(id)).toBe(true);
});

it("every name of a large directory is found, and nothing else", () => {
  const names = Array.from({ length: 3000 }, (_, i) => `file-${i * 7}`);
  const entries = names.map((name) => ({ name: pathComponentOfText(name), node: file }));
  const directory = directoryOf(entries);
  const writer = new InodeWriter();
  const reader = new InodeTable(writer.memory);
  const name = pathComponentOfText("big");
  const id = writer.setRoot(name, { node: nodeOfDirectory(directory), lazy: false, final: true });
  expect(reader.isPopulated(id)).toBe(false);
  writer.populate(id, encodeDirectory(directory));
  expect(reader.isPopulated(id)).toBe(true);
  for (const known of names) expect(reader.nameOf(reader.child(id, lookup(known)))).toBe(known);
  for (const absent of ["", "file", "file-1", "file-00", "zzz"]) {
    expect(reader.child(id, lookup(absent))).toBe(0);
  }
});

it("one directory at two places has two sets of ids and one set of names", () => {
  const target = parseSymlinkTarget(Buffer.from("../x"));
  const inner = directoryOf([
    { name: pathComponentOfText("link"), node: { type: "symlink", target } },
    { name: pathComponentOfText("sub"), node: nodeOfDirectory(directoryOf([])) },
  ]);
  const writer = new InodeWriter();
  const root = { node: nodeOfDirectory(inner), lazy: false, final: true };
  const a = writer.setRoot(pathComponentOfText("a"), root);
  const b = writer.setRoot(pathComponentOfText("b"), root);
  writer.populate(a, encodeDirectory(inner));
  writer.populate(writer.child(a, lookup("sub")), Buffer.alloc(0));
  expect(writer.knows(writer.digestOf(b))).toBe(true);
  writer.populate(b, undefined);
  const [first, second] = [writer.child(a, lookup("sub")), writer.child(b, lookup("sub"))];
  expect(first).not.toBe(second);
  expect([writer.parentOf(first), writer.parentOf(second)]).toEqual([a, b]);
  expect([writer.isPopulated(first), writer.isPopulated(second)]).toEqual([true, false]);
  expect(writer.nameStartOf(first)).toBe(writer.nameStartOf(second));
  expect(writer.nodeOf(writer.child(b, lookup("link")))).toEqual({ type: "symlink", target });
});

it("a million inodes take less than 130 MB of shared memory", () => {
  const writer = new InodeWriter();
  const count = 1000;
  for (let i = 0; i < 1000; i++) {
    const node: Node = { ...file, size: i };
    const entries = Array.from({ length: count }, (_, k) => ({
      name: pathComponentOfText(`python3.12-module-${i}-${k}.py`),
      node,
    }));
    const directory = directoryOf(entries);
    const name = pathComponentOfText(`root-${i}`);
    const root = { node: nodeOfDirectory(directory), lazy: false, final: true };
    writer.populate(writer.setRoot(name, root), encodeDirectory(directory));
  }
  expect(writer.count).toBe(1 + 1000 * 1001);
  const { inodes, names, rootSlots, rootOrder } = writer.memory;
  const bytes = [inodes, names, rootSlots, rootOrder].reduce((sum, m) => sum + m.byteLength, 0);
  expect(bytes).toBeLessThan(130e6);
  expect(writer.nameOf(writer.count)).toMatch(/^python3.12-module-999-/);
});
