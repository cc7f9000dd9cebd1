import { Worker } from "node:worker_threads";
import { CastoreError } from "../castore-error.ts";
import { SLAB_BYTES, SlabPool } from "./slab-pool.ts";
import { storeError } from "./store-error.ts";
import type { StoreIndex } from "./store-index.ts";
import type { StoreLayout } from "./store-layout.ts";
import type { StoreLeases } from "./store-leases.ts";
import type { BatchResults, WriteBatch, WriterThreadData } from "./store-writer-thread.ts";
import type { StoreWrite } from "./store-writes.ts";
import { WaveWriter } from "./wave-writer.ts";

/** Writes that are given on together, at most. */
const BATCH_WRITES_MAX = 512;
const BATCH_BYTES_MAX = 4 * SLAB_BYTES;
/**
 * So many batches of so few writes are the caller's thread's, which waits for the disk meanwhile,
 * before another thread is worth its 80 ms: a command that writes little never starts one.
 */
const BATCHES_HERE = 12;
const WRITES_HERE_MAX = 32;

/** Writes to a store, many at once: what comes while some are on their way goes together. */
export interface StoreWriter {
  /**
   * Resolves with what `applyWrite` returned for each, once all are durable. Rejects where one is
   * refused; others may have happened. Copies the contents of blobs before it returns; all other
   * bytes are the writer's from then on.
   */
  write(writes: readonly StoreWrite[]): Promise<readonly boolean[]>;
  /** Waits for what is under way. */
  close(): Promise<void>;
}

export interface StoreWriterOptions {
  readonly index: StoreIndex;
  readonly layout: StoreLayout;
  readonly leases: StoreLeases;
}

export function createStoreWriter(options: StoreWriterOptions): StoreWriter {
  return new BatchWriter(options);
}

interface Batch {
  readonly writes: StoreWrite[];
  readonly pending: Pending[];
  readonly slabs: Uint8Array[];
  /** Bytes in the last slab. */
  filled: number;
}

interface Pending {
  /** How many of the batch's writes are of this call. */
  readonly count: number;
  resolve(values: readonly boolean[]): void;
  reject(error: unknown): void;
}

class BatchWriter implements StoreWriter {
  readonly #options: StoreWriterOptions;
  readonly #slabs = new SlabPool();
  readonly #here: WaveWriter;
  #thread: Worker | undefined;
  /** What the thread has not yet answered. */
  readonly #asked: Batch[] = [];
  #batch: Batch | undefined;
  #batches = 0;
  #underWay = 0;
  #closed: Promise<void> | undefined;
  #idle: (() => void) | undefined;

  constructor(options: StoreWriterOptions) {
    const { index, layout, leases } = options;
    this.#options = options;
    const temporaryName = () => leases.temporaryName();
    this.#here = new WaveWriter(index, { layout, temporaryName, beginSync: undefined });
  }

  write(writes: readonly StoreWrite[]): Promise<readonly boolean[]> {
    if (this.#closed !== undefined) {
      return Promise.reject(new CastoreError("CLOSED", "the local store is closed"));
    }
    if (writes.length === 0) return Promise.resolve([]);
    const batch = this.#open();
    return new Promise((resolve, reject) => {
      for (const write of writes) batch.writes.push(this.#kept(batch, write));
      batch.pending.push({ count: writes.length, resolve, reject });
      const bytes = batch.slabs.length * SLAB_BYTES;
      if (batch.writes.length >= BATCH_WRITES_MAX || bytes > BATCH_BYTES_MAX) this.#send(batch);
    });
  }

  close(): Promise<void> {
    this.#closed ??= this.#end();
    return this.#closed;
  }

  async #end(): Promise<void> {
    if (this.#underWay > 0) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    }
    const thread = this.#thread;
    if (thread === undefined) return;
    const exited = new Promise((resolve) => thread.once("exit", resolve));
    thread.ref();
    const end: WriteBatch = undefined;
    thread.postMessage(end);
    await exited;
  }

  /** What is written in one turn of the event loop goes together. */
  #open(): Batch {
    if (this.#batch !== undefined) return this.#batch;
    const batch: Batch = { writes: [], pending: [], slabs: [], filled: 0 };
    this.#batch = batch;
    this.#underWay++;
    setImmediate(() => this.#send(batch));
    return batch;
  }

  /** The write, whose contents lie where a thread can see them. */
  #kept(batch: Batch, write: StoreWrite): StoreWrite {
    if (write.type !== "blob" || write.contents === undefined) return write;
    const { contents } = write;
    let slab = batch.slabs.at(-1);
    if (slab === undefined || batch.filled + contents.byteLength > SLAB_BYTES) {
      slab = this.#slabs.take();
      batch.slabs.push(slab);
      batch.filled = 0;
    }
    const kept = slab.subarray(batch.filled, batch.filled + contents.byteLength);
    kept.set(contents);
    batch.filled += contents.byteLength;
    return { ...write, contents: kept };
  }

  #send(batch: Batch): void {
    if (this.#batch !== batch) return;
    this.#batch = undefined;
    const isLittle = batch.writes.length <= WRITES_HERE_MAX && this.#batches++ < BATCHES_HERE;
    if (this.#thread === undefined && isLittle) {
      void this.#here.write(batch.writes).then((results) => this.#settle(batch, results));
      return;
    }
    this.#asked.push(batch);
    try {
      this.#thread ??= this.#start();
    } catch (cause) {
      this.#fail(storeError("store writer", cause));
      return;
    }
    this.#thread.ref();
    this.#thread.postMessage(batch.writes);
  }

  #start(): Worker {
    const { index, layout, leases } = this.#options;
    // One that is deferred must be open here, too, to see what the thread writes.
    index.transaction(() => {});
    const workerData: WriterThreadData = { path: layout.path, lease: leases.id };
    const file = new URL("./store-writer-thread.js", import.meta.url);
    const thread = new Worker(file, { workerData, execArgv: [] });
    thread.on("message", (results: BatchResults) => {
      const batch = this.#asked.shift();
      if (batch !== undefined) this.#settle(batch, results);
    });
    thread.on("error", (cause) => this.#fail(storeError("store writer", cause)));
    return thread;
  }

  #settle(batch: Batch, results: BatchResults): void {
    this.#options.index.refresh();
    let next = 0;
    for (const { count, resolve, reject } of batch.pending) {
      const values: boolean[] = [];
      for (const result of results.slice(next, next + count)) {
        if ("value" in result) values.push(result.value);
        else reject(new CastoreError(result.code, result.message));
      }
      resolve(values);
      next += count;
    }
    this.#rest(batch);
  }

  /** The thread is gone; the next write starts another. */
  #fail(error: CastoreError): void {
    this.#thread = undefined;
    for (const batch of this.#asked.splice(0)) {
      for (const { reject } of batch.pending) reject(error);
      this.#rest(batch);
    }
  }

  #rest(batch: Batch): void {
    for (const slab of batch.slabs) this.#slabs.give(slab);
    this.#underWay--;
    if (this.#asked.length === 0) this.#thread?.unref();
    if (this.#underWay === 0) this.#idle?.();
  }
}
