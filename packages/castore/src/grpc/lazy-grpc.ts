import { createRequire } from "node:module";

const require = createRequire(import.meta.url);

/** Loaded when first used: its 70 modules take a quarter of the time before a command begins. */
export function grpcJs(): typeof import("@grpc/grpc-js") {
  return require("@grpc/grpc-js");
}
