import { isCastoreError } from "@castore/castore";

/** How long a server that failed is left alone, doubling with each failure. */
export const SERVER_REST_MS = 30_000;
export const SERVER_REST_MS_MAX = 600_000;

export interface ServerRestOptions {
  /** Told when the server begins to be left alone, and why. */
  readonly onRest: (ms: number, reason: unknown) => void;
  readonly now?: (() => number) | undefined;
  /** The longest that it is left alone. Default SERVER_REST_MS_MAX. */
  readonly restMsMax?: number | undefined;
}

/** Whether a server works at present, or is left alone after a failure. */
export class ServerRest {
  readonly #onRest: ServerRestOptions["onRest"];
  readonly #now: () => number;
  readonly #msMax: number;
  #until = 0;
  #ms = SERVER_REST_MS;

  constructor(options: ServerRestOptions) {
    const { onRest, now = () => performance.now(), restMsMax = SERVER_REST_MS_MAX } = options;
    this.#onRest = onRest;
    this.#now = now;
    this.#msMax = restMsMax;
  }

  get isResting(): boolean {
    return this.#now() < this.#until;
  }

  /** Notes that the server did its part. */
  worked(): void {
    this.#ms = SERVER_REST_MS;
  }

  /** Notes a failure; UNSUPPORTED is none: this path is not there, or would cost more. */
  failed(error: unknown): void {
    if (!isCastoreError(error, "UNSUPPORTED")) this.#rest(this.#ms, error);
  }

  /** Notes that the server cannot do what is asked of it, which will not change soon. */
  cannot(reason: unknown): void {
    this.#rest(this.#msMax, reason);
  }

  #rest(ms: number, reason: unknown): void {
    // What was under way when the first failed says nothing new.
    if (this.isResting) return;
    const restMs = Math.min(ms, this.#msMax);
    this.#until = this.#now() + restMs;
    this.#ms = Math.min(2 * this.#ms, this.#msMax);
    this.#onRest(restMs, reason);
  }
}
