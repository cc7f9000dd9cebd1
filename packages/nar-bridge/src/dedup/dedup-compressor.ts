import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import type { CallOptions } from "@castore/castore";

/** Bytes that may wait to be compressed before `room` makes the caller wait. */
export const COMPRESSOR_BACKLOG_BYTES = 16 << 20;
const THREADS_MAX = 4;
/** Of buffers that are kept to be used again. */
const SPARE_BYTES_MAX = COMPRESSOR_BACKLOG_BYTES;
/** The smallest buffer; the others are larger by powers of two. */
const BUFFER_BYTES_MIN = 1 << 14;
/** A heap this small makes V8 collect what lies outside of it every 32 MiB, not at leisure. */
const THREAD_HEAP_MIB = 64;
/** Each frame's encoder and output are garbage at once. */
const THREAD_YOUNG_MIB = 1;

/** Tells how small zstd makes bytes, in other threads. */
export interface Compressor extends AsyncDisposable {
  /**
   * Calls `onSizes` with what one frame of the bytes takes at each level. The bytes are copied, and
   * stay the caller's.
   */
  submit(bytes: Uint8Array, onSizes: (sizes: readonly number[]) => void): void;
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

/** What a thread is sent, and what it sends back with the sizes: the buffer is used again. */
export interface CompressorTask {
  readonly buffer: ArrayBuffer;
  readonly size: number;
}

/** What a thread says first. */
export type CompressorLoaded = "loaded";

export interface CompressorAnswer {
  readonly buffer: ArrayBuffer;
  readonly sizes: readonly number[];
}

interface Task {
  readonly size: number;
  readonly onSizes: (sizes: readonly number[]) => void;
}

interface Thread {
  readonly worker: Worker;
  /** Resolves once the thread has loaded its modules, or has ended. */
  readonly loaded: Promise<unknown>;
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
  readonly #buffers = new SpareBuffers();
  #backlog = 0;
  #waiters: Waiter[] = [];
  #failure: { readonly reason: unknown } | undefined;

  constructor(levels: readonly number[], signal: AbortSignal | undefined) {
    this.#levels = levels;
    signal?.addEventListener("abort", () => this.#fail(signal.reason), { once: true });
  }

  submit(bytes: Uint8Array, onSizes: (sizes: readonly number[]) => void): void {
    const thread = this.#idlest();
    const size = bytes.byteLength;
    thread.tasks.push({ size, onSizes });
    thread.backlog += size;
    this.#backlog += size;
    const buffer = this.#buffers.take(size);
    new Uint8Array(buffer).set(bytes);
    const message: CompressorTask = { buffer, size };
    thread.worker.postMessage(message, [buffer]);
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
    await Promise.all(
      this.#threads.map(async ({ worker, loaded }) => {
        // A native module that is being loaded by a thread that ends takes the process with it.
        await loaded;
        await worker.terminate();
      }),
    );
  }

  #idlest(): Thread {
    const least = this.#threads.toSorted((a, b) => a.backlog - b.backlog)[0];
    const threadsMax = Math.min(availableParallelism(), THREADS_MAX);
    const mayStart = this.#threads.length < threadsMax;
    return least === undefined || (least.backlog > 0 && mayStart) ? this.#start() : least;
  }

  #start(): Thread {
    const file = new URL("./dedup-compressor-thread.js", import.meta.url);
    const resourceLimits = {
      maxOldGenerationSizeMb: THREAD_HEAP_MIB,
      maxYoungGenerationSizeMb: THREAD_YOUNG_MIB,
    };
    const worker = new Worker(file, { workerData: this.#levels, resourceLimits });
    const loaded = new Promise<void>((resolve) => {
      worker.once("message", () => resolve());
      worker.once("exit", () => resolve());
    });
    const thread: Thread = { worker, loaded, tasks: [], done: 0, backlog: 0 };
    worker.on("message", (message: CompressorAnswer | CompressorLoaded) => {
      if (message === "loaded") return;
      const { buffer, sizes } = message;
      this.#buffers.give(buffer);
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

/**
 * Buffers that wait for their next use. Fresh ones would be garbage soon, which V8 collects late on
 * a busy machine.
 */
class SpareBuffers {
  readonly #bySize = new Map<number, ArrayBuffer[]>();
  #bytes = 0;

  take(size: number): ArrayBuffer {
    let bufferBytes = BUFFER_BYTES_MIN;
    while (bufferBytes < size) bufferBytes *= 2;
    const spare = this.#bySize.get(bufferBytes)?.pop();
    if (spare === undefined) return new ArrayBuffer(bufferBytes);
    this.#bytes -= bufferBytes;
    return spare;
  }

  give(buffer: ArrayBuffer): void {
    const { byteLength } = buffer;
    if (this.#bytes + byteLength > SPARE_BYTES_MAX) return;
    this.#bytes += byteLength;
    const spares = this.#bySize.get(byteLength);
    if (spares === undefined) this.#bySize.set(byteLength, [buffer]);
    else spares.push(buffer);
  }
}
