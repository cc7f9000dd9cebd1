import type { Stretch } from "./reading-order.ts";

/** Most stretches that wait; of more, the oldest are dropped. */
const STRETCHES_MAX = 16;
/** How many were put · the file that was read last · whether it is closed · the stretches. */
const PUT = 0;
const REACHED = 1;
const CLOSED = 2;
const STRETCHES = 3;

export function createStretchMemory(): SharedArrayBuffer {
  return new SharedArrayBuffer((STRETCHES + 2 * STRETCHES_MAX) * 4);
}

/**
 * Stretches on their way from the thread that answers the kernel, which has no time, to one that
 * waits for them: a message would cost the former 50 µs. One thread puts, one takes.
 */
export class StretchQueue {
  readonly #cells: Int32Array;
  #taken = 0;

  constructor(memory: SharedArrayBuffer) {
    this.#cells = new Int32Array(memory);
  }

  put({ first, end }: Stretch): void {
    const cells = this.#cells;
    const at = slotOf(Atomics.load(cells, PUT));
    Atomics.store(cells, at, first);
    Atomics.store(cells, at + 1, end);
    Atomics.add(cells, PUT, 1);
    Atomics.notify(cells, PUT);
  }

  /** The next stretch, waiting for it without an event loop; undefined once it is closed. */
  take(): Stretch | undefined {
    const cells = this.#cells;
    while (Atomics.load(cells, CLOSED) === 0) {
      const put = Atomics.load(cells, PUT);
      if (this.#taken === put) {
        Atomics.wait(cells, PUT, put);
        continue;
      }
      // One less than there are: the next one may be being written.
      this.#taken = Math.max(this.#taken, put - STRETCHES_MAX + 1);
      const at = slotOf(this.#taken);
      const stretch = { first: Atomics.load(cells, at), end: Atomics.load(cells, at + 1) };
      if (Atomics.load(cells, PUT) - this.#taken >= STRETCHES_MAX) continue;
      this.#taken++;
      return stretch;
    }
    return undefined;
  }

  /** Says which file the kernel asked for last. */
  reach(id: number): void {
    Atomics.store(this.#cells, REACHED, id);
  }

  get reached(): number {
    return Atomics.load(this.#cells, REACHED);
  }

  /** Ends the wait in `take`, and all later ones. */
  close(): void {
    Atomics.store(this.#cells, CLOSED, 1);
    Atomics.add(this.#cells, PUT, 1);
    Atomics.notify(this.#cells, PUT);
  }
}

function slotOf(index: number): number {
  return STRETCHES + 2 * (index % STRETCHES_MAX);
}
