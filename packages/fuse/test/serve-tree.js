/**
 * A mount in a process of its own: `node serve-tree.js '{"mountpoint":…,"trees":{"name":"path"}}'`.
 * Says "ready" once mounted; unmounts when its standard input ends; with "fall" on standard input
 * it dies of an exception. With "inherited" it serves a supervised mount; "gates" names files by
 * "name", "entries" and "content": that is answered only once the file is there, and FILE.asked is
 * made when it is asked for. "once" names a file: where it is there, another process was started
 * before, and this one fails. "direct" has the files of a tree at hand, as
 * files-at-hand.js says.
 */
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import {
  createMemoryBlobService,
  createMemoryDirectoryService,
  createStaticRootNodes,
  digestOf,
  pathComponentOfText,
} from "@castore/castore";
import { INHERITED_MOUNT, mountStore } from "../dist/index.js";
import { storePath } from "./store-path.js";

const { trees, gates = {}, once, direct, ...options } = JSON.parse(process.argv[2]);
if (once !== undefined) writeFileSync(once, "", { flag: "wx" });
const store = {
  blobs: createMemoryBlobService(),
  directories: createMemoryDirectoryService(),
  roots: createStaticRootNodes(),
};
for (const [name, path] of Object.entries(trees)) {
  store.roots.set(pathComponentOfText(name), { node: await storePath(store, path) });
}
async function gate(path) {
  if (path !== undefined) writeFileSync(`${path}.asked`, "");
  while (path !== undefined && !existsSync(path)) await setTimeout(20);
}

const gated = {
  blobs: {
    ...store.blobs,
    async open(digest) {
      await gate(gates.content);
      return store.blobs.open(digest);
    },
  },
  directories: {
    ...store.directories,
    async get(digest) {
      await gate(gates.entries);
      return store.directories.get(digest);
    },
    async *getClosure(root) {
      await gate(gates.entries);
      yield* store.directories.getClosure(root);
    },
  },
  roots: {
    ...store.roots,
    async get(name) {
      await gate(gates.name);
      return store.roots.get(name);
    },
  },
};
function filesAtHand({ tree, absent, ...when }) {
  const files = {};
  for (const name of readdirSync(tree)) {
    const path = `${tree}/${name}`;
    if (statSync(path).isFile()) files[digestOf(readFileSync(path))] = path;
  }
  const module = new URL("files-at-hand.js", import.meta.url).href;
  return { module, argument: JSON.stringify({ files, absent: `${tree}/${absent}`, ...when }) };
}

if (direct !== undefined) options.content = filesAtHand(direct);
if (options.inherited) options.inherited = { ...INHERITED_MOUNT, clone: options.clone };
const mount = await mountStore({ ...gated, ...options, log: (line) => console.error(line) });
process.stdin.on("data", (text) => {
  if (String(text) === "fall") throw new Error("fallen");
});
process.stdin.on("end", () => options.inherited ?? mount.close());
console.log("ready");
await mount.ended;
console.log("ended");
