import {
  digestOf,
  directoryOf,
  encodeDirectory,
  type Node,
  parseSymlinkTarget,
  pathComponentOfText,
} from "@castore/castore";
import { expect, it } from "vitest";
import { InodeWriter } from "../src/inode-writer.ts";
import { isSmallFile, ReadingOrder } from "../src/reading-order.ts";

const SIZE = 10_000;

function file(name: string, size = SIZE): Node {
  return { type: "file", digest: digestOf(Buffer.from(name)), size, executable: false };
}

/** Below one name, directories of files; the ids of each one's files. */
function treeOf(table: InodeWriter, directories: readonly (readonly Node[])[]): number[][] {
  const pointer = (name: string, size: number): Node => {
    return { type: "directory", digest: digestOf(Buffer.from(name)), size };
  };
  const entries = (nodes: readonly Node[]) =>
    encodeDirectory(
      directoryOf(
        nodes.map((node, index) => {
          return { name: pathComponentOfText(String(index).padStart(6, "0")), node };
        }),
      ),
    );
  const node = pointer("root", directories.length);
  const root = table.setRoot(pathComponentOfText("tree"), { node, lazy: false, final: true });
  table.populate(root, entries(directories.map((nodes, i) => pointer(`${i}`, nodes.length))));
  const first = table.firstChildOf(root);
  return directories.map((nodes, index) => {
    table.populate(first + index, entries(nodes));
    return nodes.map((_, i) => table.firstChildOf(first + index) + i);
  });
}

function filesNamed(count: number): Node[] {
  return Array.from({ length: count }, (_, index) => file(`${index}`));
}

/** Reads these files; how many the kernel asked for, and which were brought unasked. */
function read(table: InodeWriter, ids: readonly number[]) {
  const order = new ReadingOrder(table);
  const brought = new Set<number>();
  let asked = 0;
  for (const id of ids) {
    if (brought.has(id)) continue;
    asked++;
    const { first = 0, end = 0 } = order.after(id) ?? {};
    for (let one = first; one < end; one++) if (isSmallFile(table, one)) brought.add(one);
  }
  return { asked, brought };
}

it("of a directory that is read in order the kernel asks for few files", () => {
  const table = new InodeWriter();
  const [ids = []] = treeOf(table, [filesNamed(2_000)]);
  const { asked, brought } = read(table, ids);
  expect(asked + brought.size).toBe(2_000);
  // 20 MB: 256 KiB doubled up to 4 MiB, and three files before.
  expect(asked).toBeLessThan(15);
});

it("of the directories that follow it asks for fewer still", () => {
  const table = new InodeWriter();
  const ids = treeOf(table, Array<Node[]>(100).fill(filesNamed(20)));
  const { asked } = read(table, ids.flat());
  expect(asked).toBeLessThan(5 + 3 * 99);
});

it("what is read here and there, or backwards, brings nothing", () => {
  const table = new InodeWriter();
  const [ids = []] = treeOf(table, [filesNamed(1_000)]);
  const scattered = Array.from({ length: 500 }, (_, index) => ids[(index * 619) % 1_000] ?? 0);
  expect(read(table, scattered).brought.size).toBe(0);
  expect(read(table, ids.toReversed()).brought.size).toBe(0);
});

it("one file of each directory brings nothing", () => {
  const table = new InodeWriter();
  const ids = treeOf(table, Array<Node[]>(100).fill(filesNamed(20)));
  const some = ids.map(([first = 0]) => first);
  expect(read(table, some).brought.size).toBe(0);
});

it("directories, links, empty and large files stand in nobody's way and are not brought", () => {
  const table = new InodeWriter();
  const others: Node[] = [
    file("empty", 0),
    file("large", 1 << 20),
    { type: "symlink", target: parseSymlinkTarget(Buffer.from("x")) },
  ];
  const nodes = filesNamed(100).flatMap((node) => [node, ...others]);
  const [ids = []] = treeOf(table, [nodes]);
  const small = ids.filter((_, index) => index % 4 === 0);
  const { asked, brought } = read(table, small);
  expect(asked).toBeLessThan(10);
  expect([...brought].every((id) => small.includes(id))).toBe(true);
});

it("programs that read at the same time are told apart", () => {
  const table = new InodeWriter();
  const [a = [], b = []] = treeOf(table, [filesNamed(200), filesNamed(200)]);
  const { asked } = read(
    table,
    a.flatMap((id, index) => [id, b[index] ?? 0]),
  );
  expect(asked).toBeLessThan(20);
});
