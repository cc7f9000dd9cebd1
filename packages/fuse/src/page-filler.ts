import { Worker } from "node:worker_threads";
import type { PageWorkerData } from "./page-worker.ts";
import { createStretchMemory, StretchQueue } from "./stretch-queue.ts";

/** Puts files into the kernel's page cache ahead of demand, in a thread of its own. */
export class PageFiller {
  /** Of a StretchQueue, for the thread that knows what will be read. */
  readonly stretches = createStretchMemory();
  readonly #data: Omit<PageWorkerData, "stretches">;
  readonly #queue = new StretchQueue(this.stretches);
  #worker: Worker | undefined;
  #ended: Promise<void> = Promise.resolve();

  constructor(data: Omit<PageWorkerData, "stretches">) {
    this.#data = data;
  }

  /** Starts the thread, if that did not happen: few mounts have a use for it. */
  start(): void {
    if (this.#worker !== undefined) return;
    const workerData: PageWorkerData = { ...this.#data, stretches: this.stretches };
    const worker = new Worker(new URL("./page-worker.js", import.meta.url), { workerData });
    // Without it, files are asked for one by one.
    worker.on("error", () => {});
    this.#ended = new Promise((resolve) => worker.once("exit", () => resolve()));
    this.#worker = worker;
  }

  /** Resolves once the thread is gone. For when the file system is unmounted: it may wait there. */
  async close(): Promise<void> {
    this.#queue.close();
    await this.#ended;
  }
}
