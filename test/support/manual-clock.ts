interface Alarm {
  readonly at: number;
  readonly ms: number;
  readonly ring: () => void;
}

/** A clock that stands still until it is told to go on; fits the Clock of nar-bridge. */
export class ManualClock {
  #now = 1_000; // not 0, which some take for "never"
  readonly #alarms = new Set<Alarm>();
  #onWait: (() => void)[] = [];

  now(): number {
    return this.#now;
  }

  async wait(ms: number, { signal }: { signal?: AbortSignal | undefined } = {}): Promise<void> {
    signal?.throwIfAborted();
    await new Promise<void>((resolve, reject) => {
      const stop = () => {
        this.#alarms.delete(alarm);
        reject(signal?.reason);
      };
      const alarm = {
        ...{ at: this.#now + ms, ms },
        ring: () => {
          signal?.removeEventListener("abort", stop);
          resolve();
        },
      };
      signal?.addEventListener("abort", stop, { once: true });
      this.#alarms.add(alarm);
      for (const wake of this.#onWait.splice(0)) wake();
    });
  }

  /** How many wait now. */
  get waiting(): number {
    return this.#alarms.size;
  }

  /** Resolves once at least `count` wait. */
  async untilWaiting(count: number): Promise<void> {
    while (this.#alarms.size < count) {
      await new Promise<void>((resolve) => this.#onWait.push(resolve));
    }
  }

  /** Resolves once at least `count` wait that asked for this very time. */
  async untilWaitingFor(ms: number, count = 1): Promise<void> {
    while ([...this.#alarms].filter((alarm) => alarm.ms === ms).length < count) {
      await new Promise<void>((resolve) => this.#onWait.push(resolve));
    }
  }

  /** Lets time pass; who waited long enough goes on, earliest first. */
  advance(ms: number): void {
    this.#now += ms;
    const due = [...this.#alarms].filter(({ at }) => at <= this.#now);
    for (const alarm of due.sort((a, b) => a.at - b.at)) {
      this.#alarms.delete(alarm);
      alarm.ring();
    }
  }
}
