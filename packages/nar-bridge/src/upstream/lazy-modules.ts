import { createRequire } from "node:module";

const require = createRequire(import.meta.url);

// Loaded when first used: together they take 0.4 s of CPU, twice as long as all else does before a
// command like `castore render` begins.

export function undici(): typeof import("undici") {
  return require("undici");
}

export function fastify(): typeof import("fastify") {
  return require("fastify");
}

export function promClient(): typeof import("prom-client") {
  return require("prom-client");
}
