import { type CallOptions, CastoreError } from "@castore/castore";

/** A lookup is small and someone waits for it; a transfer may take as long as its reader. */
export type RequestLane = "lookup" | "transfer";

export interface RequestGateOptions {
  /** Requests at once, of both lanes. */
  readonly requestsMax: number;
  /** Transfers at once; fewer than `requestsMax`, so that slow readers never stop lookups. */
  readonly transfersMax: number;
  /** Requests that may wait. */
  readonly queuedMax: number;
  /** For messages. */
  readonly name: string;
}

interface Waiter {
  readonly admit: () => void;
}

/** Bounds the requests to one host. Within a lane first come, first served; lookups go first. */
export class RequestGate {
  readonly #options: RequestGateOptions;
  readonly #queues = { lookup: new Set<Waiter>(), transfer: new Set<Waiter>() };
  readonly #running = { lookup: 0, transfer: 0 };

  constructor(options: RequestGateOptions) {
    this.#options = options;
  }

  get isIdle(): boolean {
    const { lookup, transfer } = this.#running;
    return lookup + transfer + this.#queues.lookup.size + this.#queues.transfer.size === 0;
  }

  /**
   * Waits for a turn; the caller calls the result, once or more, when its request is over.
   * Rejects EXHAUSTED when too many wait already.
   */
  async enter(lane: RequestLane, { signal }: CallOptions): Promise<() => void> {
    signal?.throwIfAborted();
    if (!this.#hasRoom(lane)) await this.#queue(lane, signal);
    else this.#running[lane]++;
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      this.#running[lane]--;
      this.#admitNext();
    };
  }

  #hasRoom(lane: RequestLane): boolean {
    const { lookup, transfer } = this.#running;
    if (lookup + transfer >= this.#options.requestsMax) return false;
    return lane === "lookup" || transfer < this.#options.transfersMax;
  }

  #queue(lane: RequestLane, signal: AbortSignal | undefined): Promise<void> {
    const { lookup, transfer } = this.#queues;
    if (lookup.size + transfer.size >= this.#options.queuedMax) {
      const { name, queuedMax } = this.#options;
      throw new CastoreError("EXHAUSTED", `${name}: ${queuedMax} requests are waiting already`);
    }
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.#queues[lane].delete(waiter);
        reject(signal?.reason);
      };
      const waiter = {
        admit: () => {
          signal?.removeEventListener("abort", leave);
          resolve();
        },
      };
      signal?.addEventListener("abort", leave, { once: true });
      this.#queues[lane].add(waiter);
    });
  }

  #admitNext(): void {
    for (const lane of ["lookup", "transfer"] as const) {
      for (const waiter of this.#queues[lane]) {
        if (!this.#hasRoom(lane)) break;
        this.#queues[lane].delete(waiter);
        this.#running[lane]++; // before the waiter runs, so that nobody overtakes it
        waiter.admit();
      }
    }
  }
}
