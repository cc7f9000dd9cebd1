import { parentPort, workerData } from "node:worker_threads";
import { commitGroup } from "./commit-group.ts";
import { openStoreIndex } from "./store-index.ts";
import type { StoreWrite } from "./store-writes.ts";

/** Writes to be committed together; `undefined` asks the thread to end. */
export type WriteGroup = readonly StoreWrite[] | undefined;

const index = openStoreIndex(String(workerData), {});

parentPort?.on("message", (writes: WriteGroup) => {
  if (writes !== undefined) {
    parentPort?.postMessage(commitGroup(index, writes));
    return;
  }
  parentPort?.close();
  index.close().catch(() => {});
});
