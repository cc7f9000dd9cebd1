import { parentPort, workerData } from "node:worker_threads";
import { zstdCompress } from "@castore/castore";

/** Levels of zstd, as the thread was started with. */
const levels: readonly number[] = workerData;

parentPort?.on("message", (bytes: Uint8Array) => {
  parentPort?.postMessage(levels.map((level) => zstdCompress(bytes, level).byteLength));
});
