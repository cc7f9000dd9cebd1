import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import type { CallOptions } from "@castore/castore";

/** Bytes that may wait to be compressed before `room` makes the caller wait. */
export const COMPRESSOR_BACKLOG_BYTES = 32 << 20;
const THREADS_MAX = 4;

/** Tells how small zstd makes bytes, in other threads. */
export interface Compressor extends AsyncDisposable {
  /**
   * Takes the bytes over, whole buffer and all, and calls `onSizes` with what one frame of them
   * takes at each level.
   */
  submit(bytes: Uint8Array<ArrayBuffer>, onSizes: (sizes: readonly number[]) => void): void;
  /** Resolves once less than COMPRESSOR_BACKLOG_BYTES wait. Rejects once a thread has failed. */
  room(): Promise<void>;
  /** Resolves once all that was submitted before is done. Rejects once a thread has failed. */
  settled(): Promise<void>;
}

/** The signal ends all waiting at once: a thread may have seconds of work before it. */
export function createCompressor(
  levels: readonly number[],
  { signal }: CallOptions = {},
): Compressor {
  return new ThreadedCompressor(levels, signal);
}

interface Task {
  readonly size: number;
  readonly onSizes: (sizes: readonly number[]) => void;
}

interface Thread {
  readonly worker: Worker;
  /** In the order of submission, which is that of the answers. */
  readonly tasks: Task[];
  /** How many tasks it has answered. */
  done: number;
  backlog: number;
}

interface Waiter {
  readonly isDone: () => boolean;
  readonly resolve: () => void;
  readonly reject: (reason: unknown) => void;
}

class ThreadedCompressor implements Compressor {
  readonly #levels: readonly number[];
  /** Started as they are needed. */
  readonly #threads: Thread[] = [];
  #backlog = 0;
  #waiters: Waiter[] = [];
  #failure: { readonly reason: unknown } | undefined;

  constructor(levels: readonly number[], signal: AbortSignal | undefined) {
    this.#levels = levels;
    signal?.addEventListener("abort", () => this.#fail(signal.reason), { once: true });
  }

  submit(bytes: Uint8Array<ArrayBuffer>, onSizes: (sizes: readonly number[]) => void): void {
    const thread = this.#idlest();
    const size = bytes.byteLength;
    thread.tasks.push({ size, onSizes });
    thread.backlog += size;
    this.#backlog += size;
    thread.worker.postMessage(bytes, [bytes.buffer]);
  }

  room(): Promise<void> {
    return this.#until(() => this.#backlog < COMPRESSOR_BACKLOG_BYTES);
  }

  settled(): Promise<void> {
    const goals = this.#threads.map(({ done, tasks }) => done + tasks.length);
    return this.#until(() => this.#threads.every(({ done }, i) => done >= (goals[i] ?? 0)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#fail(new Error("the compressor is closed"));
    await Promise.all(this.#threads.map(({ worker }) => worker.terminate()));
  }

  #idlest(): Thread {
    const least = this.#threads.toSorted((a, b) => a.backlog - b.backlog)[0];
    const threadsMax = Math.min(availableParallelism(), THREADS_MAX);
    const mayStart = this.#threads.length < threadsMax;
    return least === undefined || (least.backlog > 0 && mayStart) ? this.#start() : least;
  }

  #start(): Thread {
    const file = new URL("./dedup-compressor-thread.js", import.meta.url);
    const worker = new Worker(file, { workerData: this.#levels });
    const thread: Thread = { worker, tasks: [], done: 0, backlog: 0 };
    worker.on("message", (sizes: readonly number[]) => {
      const task = thread.tasks.shift();
      if (task === undefined) return;
      thread.done++;
      thread.backlog -= task.size;
      this.#backlog -= task.size;
      task.onSizes(sizes);
      this.#wake();
    });
    worker.on("error", (error) => this.#fail(error));
    this.#threads.push(thread);
    return thread;
  }

  async #until(isDone: () => boolean): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure.reason;
    if (isDone()) return;
    await new Promise<void>((resolve, reject) => this.#waiters.push({ isDone, resolve, reject }));
  }

  #wake(): void {
    this.#waiters = this.#waiters.filter(({ isDone, resolve }) => {
      if (!isDone()) return true;
      resolve();
      return false;
    });
  }

  #fail(reason: unknown): void {
    this.#failure ??= { reason };
    for (const { reject } of this.#waiters.splice(0)) reject(reason);
  }
}
