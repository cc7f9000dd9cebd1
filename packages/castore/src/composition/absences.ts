import { LRUCache } from "lru-cache";

/** How long "it is not there" is believed. What was just uploaded must soon be found. */
export const ABSENCE_MS = 1_000;

const ABSENCES_MAX = 10_000;

/** Remembers for a moment what a remote store did not have. */
export interface Absences {
  has(key: string): boolean;
  add(key: string): void;
  delete(key: string): void;
}

export interface AbsencesOptions {
  /** A clock in milliseconds that never goes back. */
  readonly now?: (() => number) | undefined;
}

export function createAbsences({ now = () => performance.now() }: AbsencesOptions = {}): Absences {
  const until = new LRUCache<string, number>({ max: ABSENCES_MAX });
  return {
    has: (key) => (until.get(key) ?? Number.NEGATIVE_INFINITY) > now(),
    add(key) {
      until.set(key, now() + ABSENCE_MS);
    },
    delete(key) {
      until.delete(key);
    },
  };
}
