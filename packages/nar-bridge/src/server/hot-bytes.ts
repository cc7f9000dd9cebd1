import { LRUCache } from "lru-cache";

/** What an entry takes beside its bytes. */
const ENTRY_BYTES = 500;

/** Values that were made from bytes of the store: kept while they are used, each made once. */
export class HotBytes<T extends object> {
  readonly #kept: LRUCache<string, T>;
  readonly #underWay = new Map<string, Promise<T | undefined>>();

  /** `sizeOf` tells the bytes that a value holds. */
  constructor(sizeOf: (value: T) => number, bytesMax: number) {
    this.#kept = new LRUCache({
      maxSize: bytesMax,
      sizeCalculation: (value) => sizeOf(value) + ENTRY_BYTES,
    });
  }

  /** The value kept under `key`. */
  peek(key: string): T | undefined {
    return this.#kept.get(key);
  }

  /**
   * The value under `key`, made by `make` unless it is kept or being made. That there is none, or a
   * failure, is not remembered. `make` must not end because one of its callers did.
   */
  async get<U extends T | undefined>(key: string, make: () => Promise<U>): Promise<T | U> {
    const kept = this.#kept.get(key);
    if (kept !== undefined) return kept;
    const underWay = this.#underWay.get(key);
    if (underWay !== undefined) return (await underWay) as U;
    const making = make();
    this.#underWay.set(key, making);
    try {
      const value = await making;
      if (value !== undefined) this.#kept.set(key, value);
      return value;
    } finally {
      this.#underWay.delete(key);
    }
  }
}
