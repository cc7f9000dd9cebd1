import { digestOf, directoryOf, pathComponentOfText } from "@castore/castore";
import { expect, it } from "vitest";
import { InodeWriter } from "../src/inode-writer.ts";
import { NeighbourRun } from "../src/neighbour-run.ts";

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
  table.populate(root, directoryOf(entries));
  const first = table.firstChildOf(root);
  return { table, ids: Array.from({ length: count }, (_, i) => first + i) };
}

/** Reads files in this order; how often one was not at hand, and how many were fetched. */
function read(table: InodeWriter, ids: readonly number[]) {
  const run = new NeighbourRun(table);
  const there = new Set<number>();
  let misses = 0;
  for (const id of ids) {
    if (there.has(id)) continue;
    misses++;
    there.add(id);
    for (const next of run.after(id)) there.add(next);
  }
  return { misses, fetched: there.size };
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
