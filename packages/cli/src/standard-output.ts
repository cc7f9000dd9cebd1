import { once } from "node:events";
import { closeSync, fstatSync, openSync, write } from "node:fs";
import { promisify } from "node:util";

/** Where bytes go that are many. */
export interface StandardOutput extends AsyncDisposable {
  /** Resolves once there is room for more; `piece` must not change until the next call resolves. */
  write(piece: Uint8Array): Promise<void>;
}

const STDOUT = 1;
const writeDescriptor = promisify(write);

/**
 * Standard output. A pipe is written to by a thread of the pool, which waits for the reader, while
 * this thread makes the next piece; Node's own stream writes 64 KiB in each turn of its loop.
 */
export function openStandardOutput(): StandardOutput {
  return fstatSync(STDOUT).isFIFO() ? new PipeOutput() : streamOutput;
}

class PipeOutput implements StandardOutput {
  /** Opened anew: what Node has of it does not block. */
  readonly #descriptor = openSync("/proc/self/fd/1", "w");
  #written: Promise<void> = Promise.resolve();

  async write(piece: Uint8Array): Promise<void> {
    await this.#written;
    this.#written = this.#writeAll(piece);
    this.#written.catch(() => {});
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#written;
    } finally {
      closeSync(this.#descriptor);
    }
  }

  async #writeAll(piece: Uint8Array): Promise<void> {
    try {
      for (let rest = piece; rest.byteLength > 0; ) {
        const { bytesWritten } = await writeDescriptor(this.#descriptor, rest);
        rest = rest.subarray(bytesWritten);
      }
    } catch (error) {
      // A reader that has seen enough is no failure, as in main.ts.
      if (error instanceof Error && "code" in error && error.code === "EPIPE") process.exit(0);
      throw error;
    }
  }
}

const streamOutput: StandardOutput = {
  async write(piece) {
    if (!process.stdout.write(piece)) await once(process.stdout, "drain");
  },
  async [Symbol.asyncDispose]() {},
};
