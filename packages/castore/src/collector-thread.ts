import { parentPort, workerData } from "node:worker_threads";
import type { CastoreErrorCode } from "./castore-error.ts";
import {
  type CollectionOptions,
  type CollectionReport,
  collectGarbage,
} from "./garbage-collection.ts";
import { storeError } from "./store-error.ts";
import { openStoreIndex } from "./store-index.ts";
import { storeLayout } from "./store-layout.ts";

export interface CollectorInput {
  readonly path: string;
  readonly options: CollectionOptions;
  /** One number, which is not 0 once the collection is to end. */
  readonly stop: Int32Array;
}

/** What the thread says: the last message is a report or a failure. */
export type CollectorMessage =
  | { readonly type: "renew-lease" }
  | { readonly type: "report"; readonly report: CollectionReport }
  | { readonly type: "failure"; readonly code: CastoreErrorCode; readonly message: string };

function run({ path, options, stop }: CollectorInput): CollectorMessage {
  const layout = storeLayout(path);
  try {
    const index = openStoreIndex(layout.index, {});
    try {
      const report = collectGarbage(index, layout, options, {
        checkpoint() {
          if (Atomics.load(stop, 0) !== 0) throw new Error("the collection was told to end");
        },
        pause: (ms) => {
          Atomics.wait(stop, 0, 0, ms);
        },
        renewLease: () => say({ type: "renew-lease" }),
      });
      return { type: "report", report };
    } finally {
      index.close().catch(() => {});
    }
  } catch (error) {
    const { code, message } = storeError("collect garbage", error);
    return { type: "failure", code, message };
  }
}

function say(message: CollectorMessage): void {
  parentPort?.postMessage(message);
}

say(run(workerData as CollectorInput));
