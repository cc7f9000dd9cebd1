import { parentPort, workerData } from "node:worker_threads";
import { zstdCompress } from "@castore/castore";
import type { CompressorAnswer, CompressorLoaded, CompressorTask } from "./dedup-compressor.ts";

/** Levels of zstd, as the thread was started with. */
const levels: readonly number[] = workerData;

parentPort?.on("message", ({ buffer, size }: CompressorTask) => {
  const bytes = new Uint8Array(buffer, 0, size);
  const sizes = levels.map((level) => zstdCompress(bytes, level).byteLength);
  const answer: CompressorAnswer = { buffer, sizes };
  parentPort?.postMessage(answer, [buffer]);
});

const loaded: CompressorLoaded = "loaded";
parentPort?.postMessage(loaded);
