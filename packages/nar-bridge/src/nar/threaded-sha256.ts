import { createHash } from "node:crypto";
import { Worker } from "node:worker_threads";
import { CastoreError } from "@castore/castore";

/** A running SHA-256. */
export interface RunningSha256 {
  /** Adds `bytes`, which stay the caller's. */
  update(bytes: Uint8Array): unknown;
  /** The hash of what was added. Call it once. */
  digest(): Buffer;
}

/** A ring of slots that the caller fills and the thread hashes. */
export interface Sha256Ring {
  readonly slots: SharedArrayBuffer;
  /** Counts of slots that were filled and hashed, a flag for the hash, then bytes in each slot. */
  readonly state: SharedArrayBuffer;
  readonly hash: SharedArrayBuffer;
}

export const RING_SLOTS = 16;
export const RING_SLOT_BYTES = 1 << 19;
/** Indexes into `state`. */
export const FILLED = 0;
export const HASHED = 1;
export const ENDED = 2;
export const SIZES = 3;
const HASH_BYTES = 32;
/** A thread that does nothing for so long is dead. */
const WAIT_MS = 120_000;

/**
 * A SHA-256 that is computed by a thread of its own once there is more than the ring holds, 8 MiB:
 * a second of each 2 GB less for the caller's thread, and nothing but a copy for little. Waits for
 * that thread, blocking the caller's, where it is 8 MiB behind: for commands, not for servers.
 */
export function createThreadedSha256(): RunningSha256 {
  return new ThreadedSha256();
}

class ThreadedSha256 implements RunningSha256 {
  readonly #ring: Sha256Ring = {
    slots: new SharedArrayBuffer(RING_SLOTS * RING_SLOT_BYTES),
    state: new SharedArrayBuffer(4 * (SIZES + RING_SLOTS)),
    hash: new SharedArrayBuffer(HASH_BYTES),
  };
  readonly #slots = new Uint8Array(this.#ring.slots);
  readonly #state = new Int32Array(this.#ring.state);
  #thread: Worker | undefined;
  #filled = 0;
  /** Bytes in the slot that is being filled. */
  #gathered = 0;

  update(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.byteLength; ) {
      if (this.#gathered === RING_SLOT_BYTES) this.#pass();
      const start = (this.#filled % RING_SLOTS) * RING_SLOT_BYTES + this.#gathered;
      const part = bytes.subarray(at, at + RING_SLOT_BYTES - this.#gathered);
      this.#slots.set(part, start);
      this.#gathered += part.byteLength;
      at += part.byteLength;
    }
  }

  digest(): Buffer {
    if (this.#thread === undefined) return this.#hashHere();
    if (this.#gathered > 0) this.#pass();
    // A slot without bytes is the end.
    this.#pass();
    this.#wait(ENDED, () => Atomics.load(this.#state, ENDED) === 1);
    return Buffer.from(new Uint8Array(this.#ring.hash));
  }

  /** Gives the slot to the thread, and waits until there is another one. */
  #pass(): void {
    this.#state[SIZES + (this.#filled % RING_SLOTS)] = this.#gathered;
    this.#gathered = 0;
    this.#filled++;
    Atomics.store(this.#state, FILLED, this.#filled);
    Atomics.notify(this.#state, FILLED);
    if (this.#filled === RING_SLOTS) this.#start();
    const hasRoom = () => this.#filled - Atomics.load(this.#state, HASHED) < RING_SLOTS;
    this.#wait(HASHED, hasRoom);
  }

  #start(): void {
    const file = new URL("./sha256-thread.js", import.meta.url);
    this.#thread = new Worker(file, { workerData: this.#ring, execArgv: [] });
    // It ends with the process where nobody wants its hash any more.
    this.#thread.unref();
  }

  #wait(index: number, isDone: () => boolean): void {
    while (!isDone()) {
      const seen = Atomics.load(this.#state, index);
      if (isDone()) return;
      if (Atomics.wait(this.#state, index, seen, WAIT_MS) !== "timed-out") continue;
      throw new CastoreError("UNAVAILABLE", "SHA-256: its thread does not answer");
    }
  }

  #hashHere(): Buffer {
    const bytes = this.#slots.subarray(0, this.#filled * RING_SLOT_BYTES + this.#gathered);
    return createHash("sha256").update(bytes).digest();
  }
}
