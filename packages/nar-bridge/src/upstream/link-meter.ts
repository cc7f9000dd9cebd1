/** What the way to a server does. */
export interface LinkSpeed {
  readonly bytesPerSecond: number;
  readonly roundTripMs: number;
}

/** What is assumed before anything was measured: 100 Mbit/s, 20 ms. */
export const ORDINARY_LINK: LinkSpeed = { bytesPerSecond: 12_500_000, roundTripMs: 20 };

/** Round trips that the shortest is taken of. */
const ROUND_TRIPS_KEPT = 64;
/** Rates that the highest is taken of. */
const RATES_KEPT = 8;
/** Fewer bytes say nothing of a rate: they may have come in one packet with the headers. */
const RATE_BYTES_MIN = 64 * 1024;
/** A rate is taken each time that so many bytes came and so much time passed. */
const WINDOW_BYTES = 512 * 1024;
const WINDOW_MS = 50;

/**
 * Measures one link from the requests that pass over it: the shortest of the latest round trips and
 * the highest of the latest rates, as a busy server or a slow reader only makes them worse. All
 * bodies under way count together.
 */
export class LinkMeter {
  readonly #now: () => number;
  readonly #roundTrips: number[] = [];
  readonly #rates: number[] = [];
  #active = 0;
  #windowStart = 0;
  #windowBytes = 0;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  get speed(): LinkSpeed {
    const { bytesPerSecond, roundTripMs } = ORDINARY_LINK;
    return {
      bytesPerSecond: this.#rates.length === 0 ? bytesPerSecond : Math.max(...this.#rates),
      roundTripMs: this.#roundTrips.length === 0 ? roundTripMs : Math.min(...this.#roundTrips),
    };
  }

  /** A request was answered after `ms`; on a new connection that is two round trips at least. */
  answered(ms: number, connection: "new" | "kept"): void {
    keep(this.#roundTrips, connection === "new" ? ms / 2 : ms, ROUND_TRIPS_KEPT);
  }

  bodyStarts(): void {
    if (this.#active++ === 0) this.#startWindow();
  }

  received(bytes: number): void {
    this.#windowBytes += bytes;
    const isLong = this.#now() - this.#windowStart >= WINDOW_MS;
    if (isLong && this.#windowBytes >= WINDOW_BYTES) this.#endWindow();
  }

  bodyEnds(): void {
    if (--this.#active === 0) this.#endWindow();
  }

  #startWindow(): void {
    this.#windowStart = this.#now();
    this.#windowBytes = 0;
  }

  #endWindow(): void {
    const ms = Math.max(1, this.#now() - this.#windowStart);
    if (this.#windowBytes >= RATE_BYTES_MIN) {
      keep(this.#rates, (this.#windowBytes * 1000) / ms, RATES_KEPT);
    }
    this.#startWindow();
  }
}

function keep(values: number[], value: number, countMax: number): void {
  values.push(value);
  if (values.length > countMax) values.shift();
}
