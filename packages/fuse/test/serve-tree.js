/**
 * A mount in a process of its own: `node serve-tree.js '{"mountpoint":…,"trees":{"name":"path"}}'`.
 * Says "ready" once mounted; unmounts when its standard input ends; with "fall" on standard input
 * it dies of an exception.
 */
import {
  createMemoryBlobService,
  createMemoryDirectoryService,
  createStaticRootNodes,
  pathComponentOfText,
} from "@castore/castore";
import { mountStore } from "../dist/index.js";
import { storePath } from "./store-path.js";

const { trees, ...options } = JSON.parse(process.argv[2]);
const store = {
  blobs: createMemoryBlobService(),
  directories: createMemoryDirectoryService(),
  roots: createStaticRootNodes(),
};
for (const [name, path] of Object.entries(trees)) {
  store.roots.set(pathComponentOfText(name), { node: await storePath(store, path) });
}
const mount = await mountStore({ ...store, ...options, log: (line) => console.error(line) });
process.stdin.on("data", (text) => {
  if (String(text) === "fall") throw new Error("fallen");
});
process.stdin.on("end", () => mount.close());
console.log("ready");
await mount.ended;
console.log("ended");
