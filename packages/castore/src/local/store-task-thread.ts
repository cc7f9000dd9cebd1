import { parentPort, workerData } from "node:worker_threads";
import { checkStore } from "./check-store.ts";
import { collectGarbage } from "./garbage-collection.ts";
import { seedTree } from "./seed-tree.ts";
import { storeError } from "./store-error.ts";
import { openStoreIndex } from "./store-index.ts";
import { storeLayout } from "./store-layout.ts";
import type { StoreTask, TaskHost, TaskInput, TaskMessage, TaskReport } from "./store-task.ts";

/** Tasks change hundreds of rows at once; puts leave twice as much free for them. */
const TASK_ROOM_BYTES = 8 << 20;

function run({ path, task, stop }: TaskInput): TaskMessage {
  const layout = storeLayout(path);
  const host: TaskHost = {
    checkpoint() {
      if (Atomics.load(stop, 0) !== 0) throw new Error("told to end");
    },
    pause: (ms) => {
      Atomics.wait(stop, 0, 0, ms);
    },
    renewLease: () => say({ type: "renew-lease" }),
  };
  try {
    const index = openStoreIndex(layout.index, { roomBytes: TASK_ROOM_BYTES });
    try {
      return { type: "report", report: perform(task) };
    } finally {
      index.close().catch(() => {});
    }
    function perform(what: StoreTask): TaskReport {
      switch (what.type) {
        case "collect":
          return collectGarbage(index, layout, what.options, host);
        case "seed":
          return seedTree(index, what.options, host);
        case "check":
          return checkStore(index, layout, what.options, host);
      }
    }
  } catch (error) {
    const { code, message } = storeError(task.type, error);
    return { type: "failure", code, message };
  }
}

function say(message: TaskMessage): void {
  parentPort?.postMessage(message);
}

say(run(workerData as TaskInput));
