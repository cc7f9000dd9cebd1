import { openSync, unlinkSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  digestOf,
  directoryOf,
  encodeDirectory,
  type Node,
  parsePathComponent,
  parseSymlinkTarget,
  pathComponentOfText,
} from "@castore/castore";
import { expect, it } from "vitest";
import { InodeJournal } from "../src/inode-journal.ts";
import { InodeWriter } from "../src/inode-writer.ts";

function openFile(): number {
  const path = join(tmpdir(), `castore-journal-${process.pid}-${performance.now()}`);
  const descriptor = openSync(path, "ax+");
  unlinkSync(path);
  return descriptor;
}

const file: Node = { type: "file", digest: digestOf(Buffer.from("x")), size: 1, executable: true };
const target = parseSymlinkTarget(Buffer.from([0xff, 0x2f]));
const inner = directoryOf([
  { name: pathComponentOfText("file"), node: file },
  { name: parsePathComponent(Buffer.from([0xfe])), node: { type: "symlink", target } },
]);
const node: Node = {
  type: "directory",
  digest: digestOf(encodeDirectory(inner)),
  size: inner.size,
};

/** All that a table says, by id. */
function describeTable(table: InodeWriter): unknown[] {
  return Array.from({ length: table.nextId - 2 }, (_, i) => {
    const id = i + 2;
    const flags = [table.isGone(id), table.isHeld(id), table.isFinal(id), table.isLazy(id)];
    const place = [table.parentOf(id), table.nameOf(id), table.isPopulated(id)];
    return [id, ...place, ...flags, table.nodeOf(id)];
  });
}

function fill(table: InodeWriter): void {
  const [a, b] = [pathComponentOfText("a"), pathComponentOfText("b")];
  const id = table.setRoot(a, { node, lazy: true, final: false });
  table.setRoot(b, { node, lazy: false, final: true });
  table.markHeld(id);
  table.populate(id, encodeDirectory(inner));
  table.populate(table.findRoot(b), undefined);
  table.setRoot(a, { node, lazy: false, final: true });
  table.removeRoot(b);
  table.setRoot(b, { node: file, lazy: false, final: true });
}

it("a table made again from its journal is the same, and goes on as it would have", () => {
  const descriptor = openFile();
  const first = new InodeWriter();
  const journal = new InodeJournal(descriptor);
  expect(journal.replay(first)).toBe(false);
  journal.started();
  fill(first);
  const second = new InodeWriter();
  expect(new InodeJournal(descriptor).replay(second)).toBe(true);
  expect(describeTable(second)).toEqual(describeTable(first));
  const c = pathComponentOfText("c");
  expect(second.setRoot(c, { node, lazy: false, final: true })).toBe(first.nextId);
  const third = new InodeWriter();
  new InodeJournal(descriptor).replay(third);
  expect(describeTable(third)).toEqual(describeTable(second));
});

it("a record that was cut short is dropped, and the next one follows the whole ones", () => {
  const whole = openFile();
  const first = new InodeWriter();
  new InodeJournal(whole).replay(first);
  fill(first);
  const wanted = describeTable(first);
  for (const rest of [[1], [4, 20, 0, 0, 0], [4, 20, 0, 0, 0, 1, 2, 3]]) {
    writeSync(whole, Buffer.from(rest));
    const again = new InodeWriter();
    new InodeJournal(whole).replay(again);
    expect(describeTable(again)).toEqual(wanted);
  }
});

it("nothing is written for what changes nothing", () => {
  const table = new InodeWriter();
  fill(table);
  const told: string[] = [];
  table.changes = {
    root: (name) => told.push(name),
    gone: (name) => told.push(name),
    held: (id) => told.push(String(id)),
    entries: (id) => told.push(String(id)),
  };
  const a = pathComponentOfText("a");
  const id = table.setRoot(a, { node, lazy: false, final: true });
  table.markHeld(id);
  table.populate(id, encodeDirectory(inner));
  table.removeRoot(pathComponentOfText("absent"));
  expect(told).toEqual([]);
});
