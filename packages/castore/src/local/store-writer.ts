import { Worker } from "node:worker_threads";
import { CastoreError } from "../castore-error.ts";
import { commitGroup, putBytes, type WriteResult } from "./commit-group.ts";
import { storeError } from "./store-error.ts";
import type { StoreIndex } from "./store-index.ts";
import type { WriteGroup } from "./store-writer-thread.ts";
import type { StoreWrite } from "./store-writes.ts";

/** Most writes in one transaction: bounds how long others wait for the lock. */
const GROUP_WRITES_MAX = 4096;
const GROUP_BYTES_MAX = 8 << 20;
/**
 * So many groups are committed by the caller's thread, which waits for the disk meanwhile, before
 * another thread is worth its 80 ms: a command that writes little never starts one.
 */
const GROUPS_HERE = 12;

/**
 * Commits writes in groups: what arrives during one commit makes up the next. Has a thread for
 * that, as lmdb's asynchronous transactions never call back on the Nodes we run on.
 */
export interface StoreWriter {
  /** Resolves with what `applyWrite` returned, once that is durable. */
  write(write: StoreWrite): Promise<boolean>;
  /** Waits for what is under way. */
  close(): Promise<void>;
}

interface Pending {
  readonly write: StoreWrite;
  readonly bytes: number;
  resolve(value: boolean): void;
  reject(error: unknown): void;
}

/** `index` is the one at `indexPath`. */
export function createStoreWriter(index: StoreIndex, indexPath: string): StoreWriter {
  return new GroupWriter(index, indexPath);
}

class GroupWriter implements StoreWriter {
  readonly #indexPath: string;
  readonly #index: StoreIndex;
  readonly #queue: Pending[] = [];
  #underWay: Pending[] = [];
  #thread: Worker | undefined;
  #groups = 0;
  #scheduled = false;
  #closed: Promise<void> | undefined;
  #idle: (() => void) | undefined;

  constructor(index: StoreIndex, indexPath: string) {
    this.#index = index;
    this.#indexPath = indexPath;
  }

  write(write: StoreWrite): Promise<boolean> {
    if (this.#closed !== undefined) {
      return Promise.reject(new CastoreError("CLOSED", "the local store is closed"));
    }
    return new Promise((resolve, reject) => {
      this.#queue.push({ write, bytes: putBytes(write) ?? 0, resolve, reject });
      if (this.#underWay.length === 0) this.#schedule();
    });
  }

  close(): Promise<void> {
    this.#closed ??= this.#end();
    return this.#closed;
  }

  async #end(): Promise<void> {
    if (this.#underWay.length > 0 || this.#queue.length > 0) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    }
    const thread = this.#thread;
    if (thread === undefined) return;
    const exited = new Promise((resolve) => thread.once("exit", resolve));
    thread.ref();
    const end: WriteGroup = undefined;
    thread.postMessage(end);
    await exited;
  }

  /** What is written in one turn of the event loop goes together. */
  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      if (this.#underWay.length === 0) this.#commitNext();
    });
  }

  #commitNext(): void {
    let bytes = 0;
    let count = 0;
    while (count < this.#queue.length && count < GROUP_WRITES_MAX && bytes < GROUP_BYTES_MAX) {
      bytes += this.#queue[count]?.bytes ?? 0;
      count++;
    }
    this.#underWay = this.#queue.splice(0, count);
    if (count === 0) {
      this.#rest();
      return;
    }
    const group: WriteGroup = this.#underWay.map(({ write }) => write);
    if (this.#groups++ < GROUPS_HERE) {
      this.#settle(commitGroup(this.#index, group));
      return;
    }
    this.#thread ??= this.#start();
    this.#thread.ref();
    this.#thread.postMessage(group);
  }

  #start(): Worker {
    const thread = new Worker(new URL("./store-writer-thread.js", import.meta.url), {
      workerData: this.#indexPath,
      execArgv: [],
    });
    thread.on("message", (results: readonly WriteResult[]) => this.#settle(results));
    thread.on("error", (cause) => this.#fail(storeError("store writer", cause)));
    return thread;
  }

  #settle(results: readonly WriteResult[]): void {
    const done = this.#underWay;
    this.#underWay = [];
    this.#index.refresh();
    done.forEach(({ resolve, reject }, i) => {
      const result = results[i];
      if (result === undefined) reject(new CastoreError("UNAVAILABLE", "store writer: no answer"));
      else if ("value" in result) resolve(result.value);
      else reject(new CastoreError(result.code, result.message));
    });
    if (this.#queue.length > 0) this.#schedule();
    else this.#rest();
  }

  #rest(): void {
    this.#thread?.unref();
    this.#idle?.();
  }

  /** The thread is gone; the next write starts another. */
  #fail(error: CastoreError): void {
    const failed = [...this.#underWay, ...this.#queue.splice(0)];
    this.#underWay = [];
    this.#thread = undefined;
    for (const { reject } of failed) reject(error);
    this.#rest();
  }
}
