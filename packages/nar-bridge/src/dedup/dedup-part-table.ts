import { CastoreError, type Digest } from "@castore/castore";

/** Most distinct parts that one run tells apart: about 0.5 GiB of memory. */
export const DEDUP_PARTS_MAX = 1 << 23;

/**
 * The first 64 bits of a part's digest. Of 2^23 parts, two share a key with a probability of
 * 2 × 10^-6; then one of them is not counted.
 */
export type PartKey = bigint;

export function partKeyOf(digest: Digest): PartKey {
  return BigInt(`0x${digest.slice(0, 16)}`);
}

/**
 * Numbers distinct parts from 0 on, and knows the size of each, plain and compressed at some
 * levels of zstd. In typed arrays: 24 to 48 bytes a part and 8 a level, where a Map of bigints
 * takes some 90 before it knows any size.
 */
export class PartTable {
  readonly levelCount: number;
  readonly #partsMax: number;
  #count = 0;
  #keys = new BigUint64Array(1 << 10);
  /** Open addressing: the number of a part and 1, or 0. Twice as many slots as keys. */
  #slots = new Uint32Array(1 << 11);
  #sizes = new Float64Array(1 << 10);
  #packedSizes: Float64Array;

  constructor(levelCount: number, partsMax = DEDUP_PARTS_MAX) {
    this.levelCount = levelCount;
    this.#partsMax = partsMax;
    this.#packedSizes = new Float64Array(levelCount << 10);
  }

  get count(): number {
    return this.#count;
  }

  /** The number of the part, or undefined where it was not added yet. */
  find(key: PartKey): number | undefined {
    const slot = this.#slots[this.#slotOf(key)] ?? 0;
    return slot === 0 ? undefined : slot - 1;
  }

  /** Adds a part that `find` does not know. Throws EXHAUSTED over the most that it holds. */
  add(key: PartKey, size: number): number {
    if (this.#count === this.#partsMax) {
      const advice = "measure fewer pairs at once";
      throw new CastoreError("EXHAUSTED", `more than ${this.#partsMax} distinct parts: ${advice}`);
    }
    if (this.#count === this.#keys.length) this.#grow();
    const index = this.#count++;
    this.#keys[index] = key;
    this.#sizes[index] = size;
    this.#slots[this.#slotOf(key)] = index + 1;
    return index;
  }

  keyOf(index: number): PartKey {
    return this.#keys[index] ?? 0n;
  }

  sizeOf(index: number): number {
    return this.#sizes[index] ?? 0;
  }

  /** What the part takes at each level; zeros until it was set. */
  packedSizesOf(index: number): Float64Array {
    return this.#packedSizes.subarray(index * this.levelCount, (index + 1) * this.levelCount);
  }

  setPackedSizes(index: number, sizes: ArrayLike<number>): void {
    this.#packedSizes.set(sizes, index * this.levelCount);
  }

  /** The slot that holds the key, or the free one that it belongs into. */
  #slotOf(key: PartKey): number {
    const mask = this.#slots.length - 1;
    let slot = Number(key & 0xffff_ffffn) & mask;
    for (;;) {
      const index = this.#slots[slot] ?? 0;
      if (index === 0 || this.#keys[index - 1] === key) return slot;
      slot = (slot + 1) & mask;
    }
  }

  #grow(): void {
    const capacity = this.#keys.length * 2;
    const keys = new BigUint64Array(capacity);
    keys.set(this.#keys);
    const sizes = new Float64Array(capacity);
    sizes.set(this.#sizes);
    const packedSizes = new Float64Array(capacity * this.levelCount);
    packedSizes.set(this.#packedSizes);
    [this.#keys, this.#sizes, this.#packedSizes] = [keys, sizes, packedSizes];
    this.#slots = new Uint32Array(capacity * 2);
    for (let index = 0; index < this.#count; index++) {
      this.#slots[this.#slotOf(this.keyOf(index))] = index + 1;
    }
  }
}
