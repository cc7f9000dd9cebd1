import {
  digestOf,
  directoryOf,
  encodeDirectory,
  type Node,
  pathComponentOfText,
} from "@castore/castore";
import { expect, it } from "vitest";
import { InodeWriter } from "../src/inode-writer.ts";
import { NeighbourRun, type Run } from "../src/neighbour-run.ts";

const SIZE = 10_000;

/** Ids of files in one directory, and of some links among them. */
function directoryWith(count: number) {
  const table = new InodeWriter();
  const digest = digestOf(Buffer.from("directory"));
  const node = { type: "directory", digest, size: count } as const;
  const root = table.setRoot(pathComponentOfText("d"), { node, lazy: true, final: true });
  const entries = Array.from({ length: count }, (_, i) => {
    const name = pathComponentOfText(String(i).padStart(6, "0"));
    const file = { type: "file", digest: digestOf(Buffer.from(`${i}`)), size: SIZE } as const;
    return { name, node: { ...file, executable: false } };
  });
  table.populate(root, encodeDirectory(directoryOf(entries)));
  const first = table.firstChildOf(root);
  return { table, ids: Array.from({ length: count }, (_, i) => first + i) };
}

/** Reads files in this order; how often one was not at hand, and how many were fetched. */
function read(table: InodeWriter, ids: readonly number[]) {
  const run = new NeighbourRun(table);
  const there = new Set<number>();
  const marks = new Set<number>();
  let misses = 0;
  const take = ({ files, mark }: Run) => {
    for (const { id } of files) there.add(id);
    if (mark !== 0) marks.add(mark);
  };
  for (const id of ids) {
    if (marks.delete(id)) take(run.further(id));
    if (there.has(id)) continue;
    misses++;
    there.add(id);
    take(run.after(id));
  }
  return { misses, fetched: there.size };
}

/** Below the name `name`, `count` directories of `files` files and a directory with one more. */
function treeWith(table: InodeWriter, name: string, [count, files]: readonly [number, number]) {
  const ids: number[] = [];
  const directory = (at: string, size: number) =>
    ({ type: "directory", digest: digestOf(Buffer.from(`${name}/${at}`)), size }) as const;
  const file = (at: string) => {
    const digest = digestOf(Buffer.from(`${name}/${at}`));
    return { type: "file", digest, size: SIZE, executable: false } as const;
  };
  const fill = (id: number, entries: ReadonlyMap<string, Node>) => {
    const list = [...entries].map(([entry, node]) => ({ name: pathComponentOfText(entry), node }));
    table.populate(id, encodeDirectory(directoryOf(list)));
    return table.firstChildOf(id);
  };
  const node = directory("", count);
  const root = table.setRoot(pathComponentOfText(name), { node, lazy: true, final: true });
  const numbers = Array.from({ length: count }, (_, i) => String(i).padStart(6, "0"));
  const first = fill(root, new Map(numbers.map((at) => [at, directory(at, files)])));
  for (const [index, at] of numbers.entries()) {
    const entries = new Map<string, Node>([["below", directory(`${at}/below`, 1)]]);
    for (let i = 0; i < files; i++) entries.set(`file-${i}`, file(`${at}/${i}`));
    const below = fill(first + index, entries);
    ids.push(fill(below, new Map([["file", file(`${at}/below`)]])));
    for (let i = 0; i < files; i++) ids.push(below + 1 + i);
  }
  return ids;
}

it("a program that reads all files waits for few of them", () => {
  const { table, ids } = directoryWith(5_000);
  const { misses, fetched } = read(table, ids);
  expect(fetched).toBe(5_000);
  // 50 MB: 256 KiB doubled up to 8 MiB.
  expect(misses).toBeLessThan(14);
});

it("a program that reads here and there has little more fetched than it reads", () => {
  const { table, ids } = directoryWith(50_000);
  const some = Array.from({ length: 50 }, (_, i) => ids[(i * 7_919 + 1_000) % 50_000] ?? 0);
  const { misses, fetched } = read(table, some);
  expect(misses).toBeGreaterThan(10);
  expect(fetched).toBeLessThan(50 * 28);
});

it("a program that reads a tree of small directories waits for few of them", () => {
  const table = new InodeWriter();
  const ids = treeWith(table, "a", [800, 5]);
  const { misses, fetched } = read(table, ids);
  expect(fetched).toBe(4_800);
  expect(misses).toBeLessThan(6);
});

it("a program that reads one name after the other waits for few files of each", () => {
  const table = new InodeWriter();
  const names = ["a", "b", "c", "d", "e", "f"];
  const ids = names.flatMap((name) => treeWith(table, name, [100, 5]));
  const { misses } = read(table, ids);
  expect(misses).toBeLessThan(6 + names.length);
});

it("programs that read trees at the same time wait for few files each", () => {
  const table = new InodeWriter();
  const a = treeWith(table, "a", [400, 5]);
  const b = treeWith(table, "b", [400, 5]);
  const { misses } = read(
    table,
    a.flatMap((id, index) => [id, b[index] ?? id]),
  );
  expect(misses).toBeLessThan(12);
});

it("a program that reads one file of each directory has little more fetched", () => {
  const table = new InodeWriter();
  const ids = treeWith(table, "a", [400, 20]);
  // "below" stands before them: the twentieth file is far from where the first run ended.
  const some = ids.filter((_, index) => index % (21 * 4) === 40);
  const { fetched } = read(table, some);
  expect(fetched).toBeLessThan(some.length * 21);
});
