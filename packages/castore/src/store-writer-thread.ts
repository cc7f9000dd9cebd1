import { parentPort, workerData } from "node:worker_threads";
import { CastoreError, type CastoreErrorCode } from "./castore-error.ts";
import { storeError } from "./store-error.ts";
import { openStoreIndex } from "./store-index.ts";
import { applyWrite, type StoreWrite } from "./store-writes.ts";

/** What became of one write. */
export type WriteResult =
  | { readonly value: boolean }
  | { readonly code: CastoreErrorCode; readonly message: string };

/** Writes to be committed together; `undefined` asks the thread to end. */
export type WriteGroup = readonly StoreWrite[] | undefined;

// lmdb's own asynchronous transactions never called back on the Nodes we support, and commits sync,
// so they happen in a thread of their own: main → thread a WriteGroup, thread → main WriteResult[].
const index = openStoreIndex(String(workerData), {});

function commit(writes: readonly StoreWrite[]): WriteResult[] {
  try {
    return index.transaction(() => writes.map(attempt));
  } catch (error) {
    const { code, message } = storeError("commit", error);
    return writes.map(() => ({ code, message }));
  }
}

/** A write that is refused changed nothing, so that the others of its group go ahead. */
function attempt(write: StoreWrite): WriteResult {
  try {
    return { value: applyWrite(index, write) };
  } catch (error) {
    if (!(error instanceof CastoreError)) throw error;
    return { code: error.code, message: error.message };
  }
}

parentPort?.on("message", (writes: WriteGroup) => {
  if (writes !== undefined) {
    parentPort?.postMessage(commit(writes));
    return;
  }
  parentPort?.close();
  index.close().catch(() => {});
});
