import { parentPort, workerData } from "node:worker_threads";
import { loadFileSystemSync } from "../files/file-system-sync.ts";
import type { WriteResult } from "./commit-group.ts";
import { openStoreIndex } from "./store-index.ts";
import { storeLayout } from "./store-layout.ts";
import type { StoreWrite } from "./store-writes.ts";
import { WaveWriter } from "./wave-writer.ts";

/** What the thread is told when it begins. */
export interface WriterThreadData {
  readonly path: string;
  /** Whose its temporary files are. */
  readonly lease: string;
}

/** Writes that belong to one request; `undefined` asks the thread to end. */
export type WriteBatch = readonly StoreWrite[] | undefined;

/** What became of the writes of the batches, in the order in which these came. */
export type BatchResults = readonly WriteResult[];

const { path, lease }: WriterThreadData = workerData;
const layout = storeLayout(path);
const index = openStoreIndex(layout.index, {});
const writer = new WaveWriter(index, {
  layout,
  temporaryName: namesFrom(`${lease}.w`),
  beginSync: await loadFileSystemSync(path),
});

parentPort?.on("message", (batch: WriteBatch) => {
  if (batch === undefined) {
    parentPort?.close();
    index.close().catch(() => {});
    return;
  }
  void writer.write(batch).then((results: BatchResults) => parentPort?.postMessage(results));
});

function namesFrom(prefix: string): () => string {
  let count = 0;
  return () => `${prefix}${count++}`;
}
