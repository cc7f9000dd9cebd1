/** Bytes of a slab. */
export const SLAB_BYTES = 1 << 20;
/** Free slabs that are kept. */
const FREE_SLABS_MAX = 8;

/** Memory that threads share, used again. */
export class SlabPool {
  readonly #free: Uint8Array[] = [];

  take(): Uint8Array {
    return this.#free.pop() ?? new Uint8Array(new SharedArrayBuffer(SLAB_BYTES));
  }

  /** Takes a slab back that nobody uses any more. */
  give(slab: Uint8Array): void {
    if (this.#free.length < FREE_SLABS_MAX) this.#free.push(slab);
  }
}
