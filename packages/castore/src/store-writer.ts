import { Worker } from "node:worker_threads";
import { CastoreError } from "./castore-error.ts";
import { storeError } from "./store-error.ts";
import type { WriteGroup, WriteResult } from "./store-writer-thread.ts";
import type { StoreWrite } from "./store-writes.ts";

/** Most writes in one transaction: bounds how long others wait for the lock. */
const GROUP_WRITES_MAX = 4096;
const GROUP_BYTES_MAX = 8 << 20;

/** Commits writes in groups: what arrives during one commit makes up the next. */
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

/** `onCommit` is called after each commit, before its writes resolve. */
export function createStoreWriter(indexPath: string, onCommit: () => void): StoreWriter {
  return new GroupWriter(indexPath, onCommit);
}

class GroupWriter implements StoreWriter {
  readonly #indexPath: string;
  readonly #onCommit: () => void;
  readonly #queue: Pending[] = [];
  #underWay: Pending[] = [];
  #thread: Worker | undefined;
  #closed: Promise<void> | undefined;
  #idle: (() => void) | undefined;

  constructor(indexPath: string, onCommit: () => void) {
    this.#indexPath = indexPath;
    this.#onCommit = onCommit;
  }

  write(write: StoreWrite): Promise<boolean> {
    if (this.#closed !== undefined) {
      return Promise.reject(new CastoreError("CLOSED", "the local store is closed"));
    }
    return new Promise((resolve, reject) => {
      this.#queue.push({ write, bytes: writeBytes(write), resolve, reject });
      if (this.#underWay.length === 0) this.#commitNext();
    });
  }

  close(): Promise<void> {
    this.#closed ??= this.#end();
    return this.#closed;
  }

  async #end(): Promise<void> {
    if (this.#underWay.length > 0) {
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

  #commitNext(): void {
    let bytes = 0;
    let count = 0;
    while (count < this.#queue.length && count < GROUP_WRITES_MAX && bytes < GROUP_BYTES_MAX) {
      bytes += this.#queue[count]?.bytes ?? 0;
      count++;
    }
    this.#underWay = this.#queue.splice(0, count);
    if (count === 0) {
      this.#thread?.unref();
      this.#idle?.();
      return;
    }
    this.#thread ??= this.#start();
    this.#thread.ref();
    const group: WriteGroup = this.#underWay.map(({ write }) => write);
    this.#thread.postMessage(group);
  }

  #start(): Worker {
    const thread = new Worker(new URL("./store-writer-thread.js", import.meta.url), {
      workerData: this.#indexPath,
    });
    thread.on("message", (results: readonly WriteResult[]) => this.#settle(results));
    thread.on("error", (cause) => this.#fail(storeError("store writer", cause)));
    return thread;
  }

  #settle(results: readonly WriteResult[]): void {
    const done = this.#underWay;
    this.#onCommit();
    done.forEach(({ resolve, reject }, i) => {
      const result = results[i];
      if (result === undefined) reject(new CastoreError("UNAVAILABLE", "store writer: no answer"));
      else if ("value" in result) resolve(result.value);
      else reject(new CastoreError(result.code, result.message));
    });
    this.#commitNext();
  }

  /** The thread is gone; the next write starts another. */
  #fail(error: CastoreError): void {
    const failed = [...this.#underWay, ...this.#queue.splice(0)];
    this.#thread = undefined;
    for (const { reject } of failed) reject(error);
    this.#commitNext();
  }
}

function writeBytes(write: StoreWrite): number {
  if (write.type === "blob") return write.row.byteLength;
  if (write.type !== "directories") return 64;
  return write.rows.reduce((sum, [, bytes]) => sum + bytes.byteLength, 0);
}
