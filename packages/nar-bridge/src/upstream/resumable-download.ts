import {
  type CallOptions,
  CastoreError,
  isCastoreError,
  type TransferCost,
} from "@castore/castore";
import { displayUrl, type UrlPolicy } from "./admission.ts";
import { type Clock, SYSTEM_CLOCK } from "./clock.ts";
import type { HttpClient } from "./http-client.ts";
import { contentLength, type HttpResponse } from "./http-response.ts";

/** Times in a row that a download is tried anew without getting on. */
export const DOWNLOAD_RETRIES_MAX = 5;
/** A download that got on by so much since the last failure starts to count its retries anew. */
export const DOWNLOAD_PROGRESS_BYTES = 64 * 1024;
/** Wait before the first retry; doubles. */
export const RETRY_DELAY_MS = 250;
/** A server that asks for more patience than this is given up. */
export const RETRY_AFTER_MS_MAX = 20_000;

/** Statuses of a server that may answer otherwise when asked again. */
const PASSING_STATUSES: readonly number[] = [408, 425, 429, 500, 502, 503, 504];

export interface DownloadOptions extends CallOptions {
  readonly http: HttpClient;
  readonly policy: UrlPolicy;
  /** First byte wanted; 0 by default. */
  readonly from?: number;
  readonly cost?: TransferCost | undefined;
  readonly retriesMax?: number;
  readonly clock?: Clock;
  /** Told of each interruption that a retry follows, with the position reached. */
  readonly onInterrupted?: (error: CastoreError, position: number) => void;
}

/**
 * The bytes of an admitted URL. Survives cuts, stalls and passing server errors: goes on with a
 * Range request where the server announced ranges and the object is still the same one.
 * Rejects UNAVAILABLE, naming the position reached, when it cannot go on or the body is an HTML
 * page (a captive portal); INCOMPLETE where there is no such object; DENIED where it may not be
 * read; else with what the HTTP client rejects with.
 */
export async function* download(
  url: URL,
  options: DownloadOptions,
): AsyncGenerator<Uint8Array, void, undefined> {
  const state = new ResumableDownload(url, options);
  for (;;) {
    try {
      const body = await state.open();
      if (body !== undefined) yield* body;
      return;
    } catch (error) {
      await state.prepareRetry(error);
    }
  }
}

/** A failure after which another try may succeed. */
class Interruption extends CastoreError {
  readonly retryAfterMs: number | undefined;

  constructor(message: string, retryAfterMs: number | undefined) {
    super("UNAVAILABLE", message);
    this.retryAfterMs = retryAfterMs;
  }
}

/** A failure that no other try mends, though another source may. */
class DeadEnd extends CastoreError {
  constructor(message: string) {
    super("UNAVAILABLE", message);
  }
}

class ResumableDownload {
  readonly #url: URL;
  readonly #options: DownloadOptions;
  readonly #start: number;
  /** The next byte wanted. */
  #position: number;
  #retries = 0;
  #progressFrom: number;
  /** Of the object, as its first answer said. */
  #object: ObjectMarks | undefined;
  #mayResume = false;

  constructor(url: URL, options: DownloadOptions) {
    this.#url = url;
    this.#options = options;
    this.#start = options.from ?? 0;
    this.#position = this.#start;
    this.#progressFrom = this.#start;
  }

  /** The bytes from the position on; undefined where there are none left. */
  async open(): Promise<AsyncIterable<Uint8Array> | undefined> {
    const { http, policy, signal, cost } = this.#options;
    if (this.#position === this.#start) this.#object = undefined; // nothing to be true to yet
    const headers: Record<string, string> = {};
    if (this.#position > 0) {
      headers.range = `bytes=${this.#position}-`;
      const validator = this.#object?.validator;
      if (validator !== undefined) headers["if-range"] = validator;
    }
    const request = { policy, signal, headers, cost, lane: "transfer" } as const;
    const response = await http.request(this.#url, request);
    try {
      const isEnd = response.headers["content-range"] === `bytes */${this.#position}`;
      if (response.status === 416 && isEnd) {
        response.discard();
        return undefined;
      }
      return this.#read(response, this.#checkAnswer(response));
    } catch (error) {
      response.discard();
      throw error;
    }
  }

  /** Waits until another try makes sense; rejects where none does. */
  async prepareRetry(error: unknown): Promise<void> {
    const { signal, clock = SYSTEM_CLOCK, retriesMax = DOWNLOAD_RETRIES_MAX } = this.#options;
    signal?.throwIfAborted();
    if (!isCastoreError(error, "UNAVAILABLE")) throw error;
    if (this.#position - this.#progressFrom >= DOWNLOAD_PROGRESS_BYTES) this.#retries = 0;
    this.#progressFrom = this.#position;
    const retryAfterMs = error instanceof Interruption ? (error.retryAfterMs ?? 0) : 0;
    const isStuck = this.#position > this.#start && !this.#mayResume;
    const isOver = this.#retries >= retriesMax || retryAfterMs > RETRY_AFTER_MS_MAX;
    if (isStuck || isOver || error instanceof DeadEnd) {
      throw new CastoreError("UNAVAILABLE", `${error.message} (at byte ${this.#position})`, {
        cause: error,
      });
    }
    this.#options.onInterrupted?.(error, this.#position);
    const delayMs = Math.max(RETRY_DELAY_MS * 2 ** this.#retries, retryAfterMs);
    this.#retries++;
    await clock.wait(delayMs, { signal });
  }

  /** Bytes to skip at the start of the body. Throws where the answer is of no use. */
  #checkAnswer(response: HttpResponse): number {
    const { status } = response;
    const name = displayUrl(response.url);
    if (status === 200) {
      const object = describeObject(response);
      if (this.#object !== undefined && !isSameObject(object, this.#object)) {
        throw new DeadEnd(`${name}: changed while it was downloaded`);
      }
      this.#object = object;
      this.#mayResume = mayResume(response);
      return this.#position;
    }
    if (status === 206 && this.#position > 0) {
      const range = parseContentRange(response.headers["content-range"]);
      if (range?.start !== this.#position || response.contentEncoding !== undefined) {
        throw new DeadEnd(`${name}: sent another range than byte ${this.#position} and on`);
      }
      const known = this.#object?.size;
      if (known !== undefined && range.size !== undefined && range.size !== known) {
        throw new DeadEnd(`${name}: changed its size from ${known} to ${range.size}`);
      }
      this.#object ??= { size: range.size, validator: validatorOf(response) };
      this.#mayResume = true;
      return 0;
    }
    throw this.#refusal(response, name);
  }

  #refusal({ status, headers }: HttpResponse, name: string): CastoreError {
    const message = `${name}: answered ${status}`;
    if (PASSING_STATUSES.includes(status)) {
      return new Interruption(message, parseRetryAfter(headers["retry-after"]));
    }
    if (status === 404 || status === 410) return new CastoreError("INCOMPLETE", message);
    if (status === 401 || status === 403) return new CastoreError("DENIED", message);
    return new DeadEnd(message);
  }

  async *#read(response: HttpResponse, skip: number): AsyncGenerator<Uint8Array> {
    const name = displayUrl(response.url);
    const isHtml = /^text\/html\b/i.test(response.headers["content-type"] ?? "");
    let toSkip = skip;
    let isFirst = true;
    for await (const piece of response.body) {
      if (isFirst && isHtml && piece[0] === "<".charCodeAt(0)) {
        throw new DeadEnd(`${name}: answered an HTML page`);
      }
      isFirst = false;
      const skipped = Math.min(toSkip, piece.length);
      toSkip -= skipped;
      if (skipped === piece.length) continue;
      this.#position += piece.length - skipped;
      yield skipped === 0 ? piece : piece.subarray(skipped);
    }
    const size = this.#object?.size;
    if (toSkip > 0 || (size !== undefined && this.#position !== size)) {
      throw new Interruption(`${name}: ended at ${this.#position} of ${size} bytes`, undefined);
    }
  }
}

/** What tells one object from another that the server may put in its place. */
interface ObjectMarks {
  readonly size: number | undefined;
  readonly validator: string | undefined;
}

function isSameObject(a: ObjectMarks, b: ObjectMarks): boolean {
  return a.validator !== undefined && a.validator === b.validator && a.size === b.size;
}

function describeObject(response: HttpResponse): ObjectMarks {
  const isPlain = response.contentEncoding === undefined;
  return {
    size: isPlain ? contentLength(response) : undefined,
    validator: validatorOf(response),
  };
}

/** What If-Range takes: a strong ETag, or else a date. */
function validatorOf({ headers }: HttpResponse): string | undefined {
  const { etag } = headers;
  return etag?.startsWith('"') ? etag : headers["last-modified"];
}

function mayResume({ headers, contentEncoding }: HttpResponse): boolean {
  return contentEncoding === undefined && /\bbytes\b/i.test(headers["accept-ranges"] ?? "");
}

function parseContentRange(value: string | undefined) {
  const match = /^bytes (\d{1,15})-\d{1,15}\/(\d{1,15}|\*)$/.exec(value ?? "");
  if (match === null) return undefined;
  return { start: Number(match[1]), size: match[2] === "*" ? undefined : Number(match[2]) };
}

function parseRetryAfter(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  if (/^\d{1,9}$/.test(value)) return Number(value) * 1000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}
