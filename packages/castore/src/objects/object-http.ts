import { setTimeout as sleep } from "node:timers/promises";
import type { Dispatcher, Pool } from "undici";
import { CastoreError, isCastoreError } from "../castore-error.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import { undici } from "./lazy-undici.ts";
import { passWholeBodies } from "./whole-bodies.ts";

/** Requests under way at once to one object store. */
export const OBJECT_REQUESTS_MAX = 64;

/** Tries of one request, and the pause before the second; each further one may take twice it. */
const TRIES_MAX = 6;
const PAUSE_MS = 100;
const PAUSE_MS_MAX = 10_000;
const TIMEOUT_MS = 30_000;

export interface ObjectRequest {
  readonly method: "GET" | "HEAD" | "PUT" | "DELETE";
  /** With the query string. */
  readonly path: string;
  /** Called anew for each try, as a signature holds the time. */
  readonly headers: () => Record<string, string>;
  readonly body?: Uint8Array | undefined;
  /** Most bytes of an answer. */
  readonly bytesMax: number;
}

export interface ObjectResponse {
  readonly status: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Buffer;
}

export interface ObjectHttpOptions {
  /** Pause before the second try. */
  readonly pauseMs?: number | undefined;
  readonly timeoutMs?: number | undefined;
}

/**
 * Requests to one server, tried again after a failed connection and after 409, 429 and 5xx, with
 * growing random pauses or as Retry-After says. All requests must be idempotent.
 */
export class ObjectHttp {
  readonly #name: string;
  readonly #pool: Pool;
  readonly #pauseMs: number;

  constructor(name: string, origin: string, options: ObjectHttpOptions = {}) {
    const timeout = options.timeoutMs ?? TIMEOUT_MS;
    this.#name = name;
    this.#pauseMs = options.pauseMs ?? PAUSE_MS;
    this.#pool = new (undici().Pool)(origin, {
      connections: OBJECT_REQUESTS_MAX,
      pipelining: 1,
      connect: passWholeBodies(undici().buildConnector({ timeout })),
      headersTimeout: timeout,
      bodyTimeout: timeout,
    });
  }

  /** Resolves with any answer that is not to be tried again; rejects UNAVAILABLE after the last. */
  async send(request: ObjectRequest, { signal }: CallOptions = {}): Promise<ObjectResponse> {
    let ceiling = this.#pauseMs;
    for (let attempt = 1; ; attempt++) {
      signal?.throwIfAborted();
      const failure = await this.#try(request, signal);
      if (!(failure instanceof Retry)) return failure;
      if (attempt >= TRIES_MAX) {
        const message = `${this.#name}: ${request.method} failed ${attempt} times: `;
        throw new CastoreError("UNAVAILABLE", message + failure.reason, { cause: failure.cause });
      }
      const pause = failure.afterMs ?? Math.random() * ceiling;
      ceiling = Math.min(ceiling * 2, PAUSE_MS_MAX);
      await sleep(Math.min(pause, PAUSE_MS_MAX), undefined, { signal }).catch(() => {});
    }
  }

  async close(): Promise<void> {
    await this.#pool.destroy();
  }

  async #try(request: ObjectRequest, signal: AbortSignal | undefined) {
    try {
      const response = await this.#pool.request({
        method: request.method,
        path: request.path,
        headers: request.headers(),
        body: request.body ?? null,
        signal,
      });
      const headers = headersOf(response.headers);
      const body = await this.#body(request, response.body);
      if (!isTransient(response.statusCode)) return { status: response.statusCode, headers, body };
      const after = Number(headers.get("retry-after") ?? Number.NaN) * 1_000;
      const afterMs = Number.isFinite(after) && after >= 0 ? after : undefined;
      const message = `HTTP ${response.statusCode} ${body.toString("utf8", 0, 200)}`;
      return new Retry(message.trim(), afterMs);
    } catch (error) {
      signal?.throwIfAborted();
      if (isCastoreError(error)) throw error;
      return new Retry(error instanceof Error ? error.message : "failed", undefined, error);
    }
  }

  async #body({ path, bytesMax }: ObjectRequest, body: AsyncIterable<Buffer>): Promise<Buffer> {
    const pieces: Buffer[] = [];
    let size = 0;
    for await (const piece of body) {
      size += piece.byteLength;
      if (size > bytesMax) {
        const message = `${this.#name}: answer to ${path.replace(/\?.*/, "")} of more than `;
        throw new CastoreError("EXHAUSTED", `${message}${bytesMax} bytes`);
      }
      pieces.push(piece);
    }
    const [only] = pieces;
    return pieces.length === 1 && only !== undefined ? only : Buffer.concat(pieces, size);
  }
}

class Retry {
  readonly reason: string;
  readonly afterMs: number | undefined;
  readonly cause: unknown;

  constructor(reason: string, afterMs: number | undefined, cause?: unknown) {
    this.reason = reason;
    this.afterMs = afterMs;
    this.cause = cause;
  }
}

function isTransient(status: number): boolean {
  return status === 409 || status === 429 || status >= 500;
}

function headersOf(headers: Dispatcher.ResponseData["headers"]): ReadonlyMap<string, string> {
  const entries = Object.entries(headers).flatMap(([name, value]) =>
    value === undefined ? [] : [[name.toLowerCase(), String(value)] as const],
  );
  return new Map(entries);
}
