import { messageOf, systemCodeOf } from "@castore/castore";
import type { Connection, ConnectionPool } from "./connection-pool.ts";

/** One request on one connection, until its answer is read or given up. */
export class Exchange {
  readonly connection: Connection;
  readonly signal: AbortSignal | undefined;
  readonly #pool: ConnectionPool;
  readonly #leave: () => void;
  readonly #abort = () => this.end("drop");
  #isOver = false;

  constructor(pool: ConnectionPool, signal: AbortSignal | undefined, leave: () => void) {
    this.#pool = pool;
    this.signal = signal;
    this.#leave = leave;
    this.connection = pool.take();
    signal?.addEventListener("abort", this.#abort, { once: true });
  }

  /** What becomes of the connection; only the first call counts. */
  end(how: "keep" | "drop"): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.signal?.removeEventListener("abort", this.#abort);
    if (how === "keep") this.#pool.giveBack(this.connection.client);
    else this.#pool.drop(this.connection.client);
    this.#leave();
  }
}

/** Whether a kept connection was found to be dead. */
export function isBrokenConnection(error: unknown): boolean {
  const code = systemCodeOf(error);
  return code === "ECONNRESET" || code === "EPIPE" || code === "UND_ERR_SOCKET";
}

/** What went wrong, in the words of people. */
export function describeFailure(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0)
    return describeFailure(error.errors[0]);
  const texts: Readonly<Record<string, string>> = {
    ECONNREFUSED: "connection refused",
    ENOTFOUND: "host name not found",
    EAI_AGAIN: "host name cannot be looked up now",
    ECONNRESET: "connection reset",
    UND_ERR_CONNECT_TIMEOUT: "no connection in time",
    UND_ERR_HEADERS_TIMEOUT: "no answer in time",
    UND_ERR_BODY_TIMEOUT: "the body stalled",
    UND_ERR_SOCKET: "the connection was closed",
  };
  const message = messageOf(error);
  return texts[systemCodeOf(error) ?? ""] ?? message;
}
