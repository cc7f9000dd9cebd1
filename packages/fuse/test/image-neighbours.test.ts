import {
  type Digest,
  type Directory,
  digestOf,
  directoryOf,
  type Node,
  parseSymlinkTarget,
  pathComponentOfText,
} from "@castore/castore";
import { beforeAll, describe, expect, it } from "vitest";
import { buildErofsImage } from "../src/erofs-image.ts";
import { ImageNeighbours } from "../src/image-neighbours.ts";

const SMALL_BYTES = 1_000;
const named = (name: string) => digestOf(Buffer.from(name));
const file = (name: string, size = SMALL_BYTES): Node => ({
  ...{ type: "file", digest: named(name), size, executable: false },
});
const folder = (name: string): Node => ({ type: "directory", digest: named(name), size: 1 });

const FOLDERS: Record<string, Record<string, Node>> = {
  top: { few: folder("few"), many: folder("many"), other: folder("other") },
  few: {
    ...{ a: file("a"), b: file("b"), "b.d": folder("inner"), c: file("c", 100_000) },
    ...{
      d: file("d", 0),
      e: { type: "symlink", target: parseSymlinkTarget(Buffer.from("a")) },
      f: file("f", 60_000),
      g: file("b"),
    },
  },
  inner: { within: file("within") },
  many: Object.fromEntries(
    Array.from({ length: 1_000 }, (_, index) => [`file-${1_000 + index}`, file(`many ${index}`)]),
  ),
  other: { x: file("x"), y: file("y") },
};

describe("the neighbours of a file in an image", () => {
  let image: Buffer;

  beforeAll(async () => {
    const directories = new Map<Digest, Directory>();
    for (const [name, nodes] of Object.entries(FOLDERS)) {
      const entries = Object.entries(nodes).map(([entry, node]) => ({
        ...{ name: pathComponentOfText(entry), node },
      }));
      directories.set(named(name), directoryOf(entries));
    }
    image = await buildErofsImage([[pathComponentOfText("top"), folder("top")]], {
      directory: async (digest) => directories.get(digest) ?? directoryOf([]),
      inline: async () => undefined,
      objectPath: ({ digest, size }) => `/${digest}-${size}`,
    });
  });

  it("are the small files that follow it in its directory, each once", () => {
    const neighbours = new ImageNeighbours(image);
    const a = { digest: named("a"), size: SMALL_BYTES };
    const expected = [
      { digest: named("b"), size: SMALL_BYTES },
      { digest: named("f"), size: 60_000 },
    ];
    expect(neighbours.after(a)).toEqual(expected);
    expect(neighbours.after(a)).toEqual([]);
    expect(neighbours.after({ digest: named("b"), size: SMALL_BYTES })).toEqual([]);
  });

  it("are none of a large file, of the last one, and of one that is not there", () => {
    const neighbours = new ImageNeighbours(image);
    expect(neighbours.after({ digest: named("c"), size: 100_000 })).toEqual([]);
    expect(neighbours.after({ digest: named("y"), size: SMALL_BYTES })).toEqual([]);
    expect(neighbours.after({ digest: named("absent"), size: SMALL_BYTES })).toEqual([]);
  });

  it("are named in runs of 256 KiB at most, and are of the same directory", () => {
    const neighbours = new ImageNeighbours(image);
    const left = new Set(Array.from({ length: 1_000 }, (_, index) => named(`many ${index}`)));
    let runs = 0;
    for (const digest of left) {
      left.delete(digest);
      const files = neighbours.after({ digest, size: SMALL_BYTES });
      expect(files.length * SMALL_BYTES).toBeLessThanOrEqual(256 << 10);
      for (const one of files) expect(left.delete(one.digest)).toBe(true);
      runs++;
    }
    expect(runs).toBeLessThan(20);
  });
});
