/**
 * A mount of 1,000 directories of 1,000 files each that are made up when they are asked for, in a
 * process of its own: `node serve-synthetic.js MOUNTPOINT`. Unmounts when its standard input ends.
 */
import {
  createMemoryBlobService,
  createMemoryDirectoryService,
  createStaticRootNodes,
  digestOf,
  directoryOf,
  pathComponentOfText,
} from "@castore/castore";
import { mountStore } from "../dist/index.js";

const COUNT = 1000;
const numbers = new Map();
const roots = createStaticRootNodes();
for (let i = 0; i < COUNT; i++) {
  const digest = digestOf(Buffer.from(`directory ${i}`));
  numbers.set(digest, i);
  const node = { type: "directory", digest, size: 2 * COUNT };
  roots.set(pathComponentOfText(`${String(i).padStart(32, "0")}-package-1.${i}`), { node });
}

async function get(digest) {
  const i = numbers.get(digest);
  const entries = Array.from({ length: COUNT }, (_, k) => ({
    name: pathComponentOfText(`module-${i}-${k}.cpython-312.pyc`),
    node: { type: "file", digest, size: k, executable: false },
  }));
  return directoryOf(entries);
}

const directories = {
  ...createMemoryDirectoryService(),
  get,
  async *getClosure(digest) {
    yield await get(digest);
  },
};
const blobs = createMemoryBlobService();
const mount = await mountStore({ mountpoint: process.argv[2], roots, directories, blobs });
process.stdin.on("end", () => mount.close()).resume();
console.log("ready");
await mount.ended;
