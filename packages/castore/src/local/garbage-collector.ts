import { CastoreError } from "../castore-error.ts";
import type { CollectionOptions, CollectionReport } from "./garbage-collection.ts";
import type { OpenStore } from "./open-store.ts";
import { runStoreTask } from "./store-task.ts";
import { META_SIZE, readCounter } from "./store-writes.ts";

/** How long a collection waits for leases that were there before it, unless told otherwise. */
const WAIT_MS = 60_000;
/** A collection for the size limit makes this part of it free, so that the next is a while off. */
const HEADROOM = 0.1;
/** After a collection that could not make room, the store must grow by this part for the next. */
const GROWTH = 0.05;

export interface CollectOptions {
  /** Changes nothing and reports what would be. */
  readonly dryRun?: boolean | undefined;
  /** Evicts root records, least recently used first, until the store is counted at most so big. */
  readonly sizeMax?: number | undefined;
  /** How long to wait for what leases hold; 60 seconds by default. */
  readonly waitMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Collects the garbage of one open store, in a thread of its own, one collection at a time. */
export class GarbageCollector {
  readonly #store: OpenStore;
  readonly #sizeMax: number | undefined;
  readonly #prepare: () => Promise<void>;
  #running: Promise<unknown> = Promise.resolve();
  #automatic: AbortController | undefined;
  #nextSize: number;
  #closed = false;

  /**
   * With `sizeMax`, collects by itself when a put takes the store beyond it. Before a collection,
   * `prepare` writes down what was used.
   */
  constructor(store: OpenStore, sizeMax: number | undefined, prepare: () => Promise<void>) {
    this.#store = store;
    this.#prepare = prepare;
    this.#sizeMax = sizeMax;
    this.#nextSize = sizeMax ?? Number.POSITIVE_INFINITY;
  }

  /** Lets go of what this process has put or seen outside any lease. */
  async collect(options: CollectOptions = {}): Promise<CollectionReport> {
    this.#store.checkWritable();
    options.signal?.throwIfAborted();
    await this.#prepare();
    return this.#enqueue(options, () => this.#store.leases.renewSpans());
  }

  #enqueue(options: CollectOptions, renewLease: () => void): Promise<CollectionReport> {
    const run = this.#running.then(() => this.#run(options, renewLease));
    this.#running = run.catch(() => {});
    return run;
  }

  /** Called after each commit. */
  checkSize(): void {
    if (this.#sizeMax === undefined || this.#automatic !== undefined || this.#closed) return;
    if (readCounter(this.#store.index.rows.meta, META_SIZE) <= this.#nextSize) return;
    const controller = new AbortController();
    this.#automatic = controller;
    const sizeMax = Math.floor(this.#sizeMax * (1 - HEADROOM));
    // Another process may collect at this moment; then this one looks again after the next put.
    this.#prepare()
      .then(() =>
        this.#enqueue({ sizeMax, signal: controller.signal }, () => this.#store.leases.advance()),
      )
      .then(
        (report) => this.#afterAutomatic(report.bytesFreed),
        () => this.#afterAutomatic(0),
      );
  }

  /** Puts went on meanwhile: collects again, unless nothing could be freed before more is there. */
  #afterAutomatic(bytesFreed: number): void {
    this.#automatic = undefined;
    if (this.#closed || this.#sizeMax === undefined) return;
    const size = readCounter(this.#store.index.rows.meta, META_SIZE);
    this.#nextSize = bytesFreed > 0 ? this.#sizeMax : Math.max(this.#sizeMax, size * (1 + GROWTH));
    this.checkSize();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#automatic?.abort(new CastoreError("CLOSED", "the local store is closed"));
    await this.#running;
  }

  async #run(options: CollectOptions, renewLease: () => void): Promise<CollectionReport> {
    const task = { type: "collect", options: this.#optionsOf(options) } as const;
    try {
      return await runStoreTask(this.#store.layout.path, task, {
        signal: options.signal,
        renewLease,
      });
    } finally {
      this.#store.index.refresh();
    }
  }

  #optionsOf({ dryRun, sizeMax, waitMs }: CollectOptions): CollectionOptions {
    return {
      owner: this.#store.leases.id,
      dryRun: dryRun ?? false,
      sizeMax,
      waitMs: waitMs ?? WAIT_MS,
    };
  }
}
