/** Bytes of a digest that tell it apart: two that share them are not to be found. */
const WORDS = 4;
const LOAD_MAX = 0.6;

/**
 * A set of digests in a few typed bytes each: 27 to 54 bytes a digest, where a Set of strings takes
 * 150. Takes 16 bytes for the whole digest: a garbage collection that meets two of one prefix, if
 * ever anyone finds such, keeps both.
 */
export class DigestSet {
  #table: Uint32Array;
  #mask: number;
  #size = 0;

  constructor(capacity = 1 << 10) {
    this.#table = new Uint32Array(capacity * WORDS);
    this.#mask = capacity - 1;
  }

  get size(): number {
    return this.#size;
  }

  /** Adds the digest at `at` in `bytes`; false where it was there. */
  add(bytes: Uint8Array, at = 0): boolean {
    if (this.#size > LOAD_MAX * (this.#mask + 1)) this.#grow();
    const slot = this.#find(bytes, at);
    if (this.#table[slot] !== 0) return false;
    this.#table[slot] = word(bytes, at) || 1;
    for (let i = 1; i < WORDS; i++) this.#table[slot + i] = word(bytes, at + 4 * i);
    this.#size++;
    return true;
  }

  has(bytes: Uint8Array, at = 0): boolean {
    return this.#table[this.#find(bytes, at)] !== 0;
  }

  /** Where the digest is or would be. */
  #find(bytes: Uint8Array, at: number): number {
    const first = word(bytes, at) || 1;
    const second = word(bytes, at + 4);
    const third = word(bytes, at + 8);
    const fourth = word(bytes, at + 12);
    const table = this.#table;
    for (let i = first & this.#mask; ; i = (i + 1) & this.#mask) {
      const slot = i * WORDS;
      if (table[slot] === 0) return slot;
      if (
        table[slot] === first &&
        table[slot + 1] === second &&
        table[slot + 2] === third &&
        table[slot + 3] === fourth
      ) {
        return slot;
      }
    }
  }

  #grow(): void {
    const old = this.#table;
    const capacity = 2 * (this.#mask + 1);
    this.#table = new Uint32Array(capacity * WORDS);
    this.#mask = capacity - 1;
    for (let from = 0; from < old.length; from += WORDS) {
      const first = old[from] ?? 0;
      if (first === 0) continue;
      let i = first & this.#mask;
      while (this.#table[i * WORDS] !== 0) i = (i + 1) & this.#mask;
      this.#table.set(old.subarray(from, from + WORDS), i * WORDS);
    }
  }
}

/** A number without sign, as Uint32Array holds it. */
function word(bytes: Uint8Array, at: number): number {
  return (
    ((bytes[at] ?? 0) |
      ((bytes[at + 1] ?? 0) << 8) |
      ((bytes[at + 2] ?? 0) << 16) |
      ((bytes[at + 3] ?? 0) << 24)) >>>
    0
  );
}
