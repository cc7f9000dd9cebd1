import { Worker } from "node:worker_threads";
import { CastoreError, type CastoreErrorCode } from "../castore-error.ts";
import type { CheckOptions, CheckReport } from "./check-store.ts";
import type { CollectionOptions, CollectionReport } from "./garbage-collection.ts";
import type { SeedOptions, SeedReport } from "./seed-tree.ts";
import { storeError } from "./store-error.ts";

/** Long work on a store, which is done synchronously in a thread of its own. */
export type StoreTask =
  | { readonly type: "collect"; readonly options: CollectionOptions }
  | { readonly type: "seed"; readonly options: SeedOptions }
  | { readonly type: "check"; readonly options: CheckOptions };

export type TaskReport = CollectionReport | SeedReport | CheckReport;

/** What a task reports. */
export type ReportOf<T extends StoreTask> = T extends { type: "collect" }
  ? CollectionReport
  : T extends { type: "seed" }
    ? SeedReport
    : CheckReport;

/** The thread that a task runs in. */
export interface TaskHost {
  /** Throws to end the task. Costs 20 ns. */
  checkpoint(): void;
  pause(ms: number): void;
  /** Asks the store that runs the task to renew its lease. */
  renewLease(): void;
}

export interface TaskInput {
  readonly path: string;
  readonly task: StoreTask;
  /** One number, which is not 0 once the task is to end. */
  readonly stop: Int32Array;
}

/** What the thread says; the last message is a report or a failure. */
export type TaskMessage =
  | { readonly type: "renew-lease" }
  | { readonly type: "report"; readonly report: TaskReport }
  | { readonly type: "failure"; readonly code: CastoreErrorCode; readonly message: string };

export interface RunTaskOptions {
  readonly signal?: AbortSignal | undefined;
  readonly renewLease?: () => void;
}

/** Runs `task` on the store at `path`; ends with the signal's reason soon after it aborts. */
export async function runStoreTask<T extends StoreTask>(
  path: string,
  task: T,
  { signal, renewLease }: RunTaskOptions = {},
): Promise<ReportOf<T>> {
  signal?.throwIfAborted();
  const stop = new Int32Array(new SharedArrayBuffer(4));
  const workerData: TaskInput = { path, task, stop };
  // A thread takes no flags from the program it serves: --input-type, for one, would break it.
  const thread = new Worker(new URL("./store-task-thread.js", import.meta.url), {
    workerData,
    execArgv: [],
  });
  const abort = (): void => {
    Atomics.store(stop, 0, 1);
    Atomics.notify(stop, 0);
  };
  signal?.addEventListener("abort", abort, { once: true });
  try {
    const last = await new Promise<TaskMessage | undefined>((resolve, reject) => {
      let latest: TaskMessage | undefined;
      thread.on("message", (message: TaskMessage) => {
        if (message.type === "renew-lease") renewLease?.();
        else latest = message;
      });
      thread.on("error", (cause) => reject(storeError(task.type, cause)));
      thread.on("exit", () => resolve(latest));
    });
    if (last?.type === "report") return last.report as ReportOf<T>;
    signal?.throwIfAborted();
    if (last?.type === "failure") throw new CastoreError(last.code, last.message);
    throw new CastoreError("UNAVAILABLE", `${task.type}: the thread ended`);
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}
