import type { Client } from "undici";
import { undici } from "./lazy-modules.ts";

/** How long an idle connection is kept, where the server does not say. */
export const KEEP_ALIVE_MS = 30_000;
/** How long an idle connection is kept at most, whatever the server says. */
export const KEEP_ALIVE_MAX_MS = 600_000;

/** A connection that serves one request at a time, and whether it has served one before. */
export interface Connection {
  readonly client: Client;
  readonly isKept: boolean;
}

/**
 * Connections to one origin, the one used last first. undici's Pool is not used: when a request is
 * aborted it connects anew at once, and it does not say whether a connection was a kept one.
 */
export class ConnectionPool {
  readonly #origin: string;
  readonly #options: Client.Options;
  readonly #idle: Client[] = [];
  readonly #all = new Set<Client>();

  constructor(origin: string, connect: NonNullable<Client.Options["connect"]>) {
    this.#origin = origin;
    this.#options = {
      connect,
      pipelining: 1,
      keepAliveTimeout: KEEP_ALIVE_MS,
      keepAliveMaxTimeout: KEEP_ALIVE_MAX_MS,
    };
  }

  get isIdle(): boolean {
    return this.#idle.length === this.#all.size;
  }

  /** A connection for one request; the caller gives it back or drops it. */
  take(): Connection {
    const kept = this.#idle.pop();
    if (kept !== undefined) return { client: kept, isKept: true };
    const client = new (undici().Client)(this.#origin, this.#options);
    this.#all.add(client);
    client.on("disconnect", () => {
      if (this.#idle.includes(client)) this.drop(client);
    });
    return { client, isKept: false };
  }

  /** For the next request: the answer was read to its end. */
  giveBack(client: Client): void {
    if (this.#all.has(client)) this.#idle.push(client);
  }

  /** Closes the connection now; a request on it fails. Idempotent. */
  drop(client: Client): void {
    this.#all.delete(client);
    const at = this.#idle.indexOf(client);
    if (at >= 0) this.#idle.splice(at, 1);
    client.destroy().catch(() => {}); // nothing is left to fail
  }

  close(): void {
    for (const client of this.#all) this.drop(client);
  }
}
