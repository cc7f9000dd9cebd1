import { once } from "node:events";
import { closeSync, fstatSync, openSync, write } from "node:fs";
import { promisify } from "node:util";
import { systemCodeOf } from "@castore/castore";

/** Where bytes go that are many. */
export interface StandardOutput extends AsyncDisposable {
  /** Resolves once there is room for more; `piece` must not change until it is released. */
  write(piece: Uint8Array): Promise<void>;
}

const STDOUT = 1;
const writeDescriptor = promisify(write);

/**
 * Standard output. A pipe is written to by a thread of the pool, which waits for the reader, while
 * this thread makes the next piece; Node's own stream writes 64 KiB in each turn of its loop.
 * `release` is called with pieces that were written and may change.
 */
export function openStandardOutput(release: (piece: Uint8Array) => void): StandardOutput {
  return fstatSync(STDOUT).isFIFO() ? new PipeOutput(release) : streamOutput;
}

class PipeOutput implements StandardOutput {
  /** Opened anew: what Node has of it does not block. */
  readonly #descriptor = openSync("/proc/self/fd/1", "w");
  readonly #release: (piece: Uint8Array) => void;
  #written: Promise<void> = Promise.resolve();

  constructor(release: (piece: Uint8Array) => void) {
    this.#release = release;
  }

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
      this.#release(piece);
    } catch (error) {
      // A reader that has seen enough is no failure, as in main.ts.
      if (systemCodeOf(error) === "EPIPE") process.exit(0);
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
