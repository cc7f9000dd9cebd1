import type { CallOptions } from "@castore/castore";

interface Flight<Value> {
  readonly value: Promise<Value>;
  readonly abort: AbortController;
  passengers: number;
}

/** One piece of work per key at a time, however many wait for it; ends when nobody does. */
export class SharedFlights<Key, Value> {
  readonly #flights = new Map<Key, Flight<Value>>();

  /**
   * The outcome of the work under way for `key`, or else of `start`, whose signal aborts once every
   * caller's did. Rejects with the caller's own reason. Outcomes are not remembered.
   */
  async join(
    key: Key,
    { signal }: CallOptions,
    start: (signal: AbortSignal) => Promise<Value>,
  ): Promise<Value> {
    signal?.throwIfAborted();
    const flight = this.#flights.get(key) ?? this.#start(key, start);
    flight.passengers++;
    return await new Promise<Value>((resolve, reject) => {
      const leave = () => {
        reject(signal?.reason);
        if (--flight.passengers > 0) return;
        this.#forget(key, flight);
        flight.abort.abort(signal?.reason);
      };
      signal?.addEventListener("abort", leave, { once: true });
      flight.value.then(resolve, reject).finally(() => signal?.removeEventListener("abort", leave));
    });
  }

  #start(key: Key, start: (signal: AbortSignal) => Promise<Value>): Flight<Value> {
    const abort = new AbortController();
    const flight = { value: start(abort.signal), abort, passengers: 0 };
    this.#flights.set(key, flight);
    const forget = () => this.#forget(key, flight);
    flight.value.then(forget, forget);
    return flight;
  }

  #forget(key: Key, flight: Flight<Value>): void {
    if (this.#flights.get(key) === flight) this.#flights.delete(key);
  }
}
