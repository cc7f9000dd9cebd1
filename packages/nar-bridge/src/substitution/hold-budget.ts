import { HOLD_BYTES_MAX } from "./nar-delivery.ts";

/** Most bytes of NARs held until they are proven and stored, whatever the number of clients. */
export const HOLD_BUDGET_BYTES = 64 * 1024 * 1024;

/** A share of the budget, to be released once. */
export interface Hold {
  /** 0 where there was not enough left. */
  readonly bytes: number;
  release(): void;
}

/** Keeps the memory for NARs that are held until they are proven and stored within its limit. */
export class HoldBudget {
  #left = HOLD_BUDGET_BYTES;

  /** A hold for a NAR of `narSize` bytes; one too large is not held back. */
  take(narSize: number): Hold {
    const isHeld = narSize <= HOLD_BYTES_MAX && narSize <= this.#left;
    const bytes = isHeld ? narSize : 0;
    this.#left -= bytes;
    let isReleased = false;
    return {
      bytes,
      release: () => {
        if (!isReleased) this.#left += bytes;
        isReleased = true;
      },
    };
  }
}
