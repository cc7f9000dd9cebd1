import { createRequire } from "node:module";

const require = createRequire(import.meta.url);

/** Loaded when first used: it takes 0.17 s of CPU, and most commands ask no object store. */
export function undici(): typeof import("undici") {
  return require("undici");
}
