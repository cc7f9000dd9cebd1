import { createRequire } from "node:module";

const require = createRequire(import.meta.url);

/** Loaded when a store's index is first opened: it takes 25 ms of CPU, and a machine needs none. */
export function lmdb(): typeof import("lmdb") {
  return require("lmdb");
}
