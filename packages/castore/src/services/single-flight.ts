import { CastoreError } from "../castore-error.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import { untilAborted } from "../streams/cancellable.ts";

/** Flights under way at once; more wait for their turn. */
export const FLIGHTS_MAX = 64;

interface Flight<V> {
  readonly result: Promise<V>;
  readonly controller: AbortController;
  passengers: number;
}

/**
 * One call per key however many ask for it meanwhile: they share its result or its failure. Who
 * aborts only leaves; the call itself is aborted once nobody is left. Nothing is remembered.
 */
export class SingleFlight<V> {
  readonly #flights = new Map<string, Flight<V>>();
  readonly #waiting: (() => void)[] = [];
  readonly #flightsMax: number;
  #flying = 0;

  constructor(flightsMax = FLIGHTS_MAX) {
    this.#flightsMax = flightsMax;
  }

  async run(
    key: string,
    start: (signal: AbortSignal) => Promise<V>,
    { signal }: CallOptions = {},
  ): Promise<V> {
    signal?.throwIfAborted();
    const flight = this.#flights.get(key) ?? this.#launch(key, start);
    flight.passengers++;
    try {
      return await untilAborted(flight.result, signal);
    } finally {
      flight.passengers--;
      if (flight.passengers === 0) this.#land(key, flight);
    }
  }

  #launch(key: string, start: (signal: AbortSignal) => Promise<V>): Flight<V> {
    const controller = new AbortController();
    const result = this.#inTurn(() => {
      controller.signal.throwIfAborted();
      return start(controller.signal);
    });
    const flight = { result, controller, passengers: 0 };
    this.#flights.set(key, flight);
    const land = (): void => this.#land(key, flight);
    result.then(land, land);
    return flight;
  }

  #land(key: string, flight: Flight<V>): void {
    if (this.#flights.get(key) === flight) this.#flights.delete(key);
    flight.controller.abort(new CastoreError("CLOSED", "nobody waits any more"));
  }

  async #inTurn<T>(run: () => Promise<T>): Promise<T> {
    if (this.#flying >= this.#flightsMax) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    } else {
      this.#flying++;
    }
    try {
      return await run();
    } finally {
      // A waiting flight takes over the place.
      const next = this.#waiting.shift();
      if (next === undefined) this.#flying--;
      else next();
    }
  }
}
