import { setTimeout as wait } from "node:timers/promises";
import type { CallOptions } from "@castore/castore";

/** Time, as code that rests, retries and expires sees it; tests bring their own. */
export interface Clock {
  /** Milliseconds since some fixed moment; never goes back. */
  now(): number;
  /** Resolves after `ms`. Rejects with the signal's reason. */
  wait(ms: number, options?: CallOptions): Promise<void>;
}

export const SYSTEM_CLOCK: Clock = {
  now: () => performance.now(),
  wait: async (ms, options = {}) => {
    try {
      await wait(ms, undefined, options.signal === undefined ? {} : { signal: options.signal });
    } catch (error) {
      options.signal?.throwIfAborted();
      throw error;
    }
  },
};
