import type { Clock } from "./clock.ts";

/** How long an upstream rests after its first failure; doubles with each further one. */
export const REST_MS = 10_000;
export const REST_MS_MAX = 300_000;

export interface UpstreamRestOptions {
  readonly clock: Clock;
  readonly restMs?: number | undefined;
  readonly restMsMax?: number | undefined;
  /** Told when a rest begins, with its length and cause, and when the upstream answers again. */
  readonly onChange?: ((event: RestEvent) => void) | undefined;
}

export type RestEvent =
  | { readonly kind: "rests"; readonly ms: number; readonly reason: string }
  | { readonly kind: "answers" };

/** One question to the upstream; told how it went, once. */
export interface Attempt {
  /** The upstream answered, if only that it does not have the thing. */
  succeeded(): void;
  failed(reason: string): void;
  /** Nobody waits for the answer any more. */
  cancelled(): void;
}

/**
 * Keeps questions from an upstream that failed. When its rest is over, one question goes through as
 * a probe; its answer ends or doubles the rest. A failure does not count while other questions,
 * asked later, were answered: one bad object is no reason to forgo all others.
 */
export class UpstreamRest {
  readonly #options: UpstreamRestOptions;
  #failures = 0;
  #until = 0;
  #reason: string | undefined;
  #isProbing = false;
  #answeredAt = Number.NEGATIVE_INFINITY;

  constructor(options: UpstreamRestOptions) {
    this.#options = options;
  }

  /** Why it rests; undefined when it does not. */
  get reason(): string | undefined {
    return this.#reason;
  }

  /** Leave to ask; undefined while the upstream rests. */
  attempt(): Attempt | undefined {
    const startedAt = this.#options.clock.now();
    const isProbe = this.#reason !== undefined;
    if (isProbe && (this.#isProbing || startedAt < this.#until)) return undefined;
    this.#isProbing = isProbe;
    return {
      succeeded: () => this.#succeeded(),
      failed: (reason) => {
        // Of the questions that were under way when the rest began, none makes it longer.
        if (isProbe || (this.#reason === undefined && this.#answeredAt <= startedAt)) {
          this.#failed(reason);
        }
      },
      cancelled: () => {
        if (isProbe) this.#isProbing = false;
      },
    };
  }

  #succeeded(): void {
    this.#answeredAt = this.#options.clock.now();
    this.#failures = 0;
    this.#isProbing = false;
    if (this.#reason === undefined) return;
    this.#reason = undefined;
    this.#options.onChange?.({ kind: "answers" });
  }

  #failed(reason: string): void {
    const { clock, restMs = REST_MS, restMsMax = REST_MS_MAX, onChange } = this.#options;
    const ms = Math.min(restMs * 2 ** this.#failures, restMsMax);
    this.#failures++;
    this.#until = clock.now() + ms;
    this.#reason = reason;
    this.#isProbing = false;
    onChange?.({ kind: "rests", ms, reason });
  }
}
