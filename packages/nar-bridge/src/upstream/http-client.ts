import type { LookupFunction } from "node:net";
import type { SecureContext } from "node:tls";
import {
  type CallOptions,
  CastoreError,
  isCastoreError,
  type TransferCost,
} from "@castore/castore";
import type { Dispatcher } from "undici";
import {
  ACCEPTED_ENCODINGS,
  decodeContent,
  parseContentEncoding,
} from "../compression/content-encoding.ts";
import { type AddressScope, isWithinReach, literalScope } from "./address-scope.ts";
import { admitUrl, displayUrl, isSameOrigin, REDIRECTS_MAX, type UrlPolicy } from "./admission.ts";
import { createTlsContext, type Environment } from "./ca-certificates.ts";
import { ConnectionPool } from "./connection-pool.ts";
import { createConnector } from "./connector.ts";
import { requestFile } from "./file-transport.ts";
import { describeFailure, Exchange, isBrokenConnection } from "./http-exchange.ts";
import type { HttpResponse } from "./http-response.ts";
import { LinkMeter, type LinkSpeed } from "./link-meter.ts";
import { type ProxyChoice, proxyAuthorization, proxyChoiceFrom } from "./proxy-settings.ts";
import { RequestGate, type RequestLane } from "./request-gate.ts";

/** Requests to one host at once. */
export const REQUESTS_PER_HOST_MAX = 16;
/** Of these, transfers: a reader that is slow on all of them must not stop lookups. */
export const TRANSFERS_PER_HOST_MAX = 12;
/** Requests that may wait for one host. */
export const REQUESTS_QUEUED_MAX = 4096;
/** Origins whose connections are kept. */
export const ORIGINS_MAX = 64;
export const CONNECT_TIMEOUT_MS = 5_000;
export const HEADERS_TIMEOUT_MS = 30_000;
/**
 * A body without a byte for so long is cut, unless it is our reader that waits. Half of what the
 * delivery of a NAR grants a source, so that there is time left to go on by a Range request.
 */
export const STALL_TIMEOUT_MS = 15_000;
/** An unread body is read to its end for the connection's sake if it is no larger. */
const DRAIN_BYTES_MAX = 16 * 1024;

export interface BasicCredentials {
  readonly user: string;
  readonly password: string;
}

/** Told of every request and byte as they pass; must not throw. Redirects count as requests. */
export interface HttpHooks {
  onRequest?(url: URL, method: string): void;
  onResponse?(url: URL, status: number): void;
  /** Bytes of a body, before decoding. */
  onBytes?(url: URL, bytes: number): void;
}

export interface HttpClientOptions {
  /** For proxies and certificates; process.env by default. */
  readonly environment?: Environment;
  /** User and password for a URL, as netrc has them. Sent to a policy's base origin only. */
  readonly credentialsFor?: (url: URL) => BasicCredentials | undefined;
  readonly hooks?: HttpHooks;
  readonly userAgent?: string;
  readonly requestsPerHostMax?: number;
  readonly transfersPerHostMax?: number;
  readonly requestsQueuedMax?: number;
  readonly connectTimeoutMs?: number;
  readonly headersTimeoutMs?: number;
  readonly stallTimeoutMs?: number;
  /** As dns.lookup, which is the default. */
  readonly lookup?: LookupFunction;
}

export interface HttpRequest extends CallOptions {
  /** On whose behalf: decides about redirects, credentials and the addresses connected to. */
  readonly policy: UrlPolicy;
  readonly method?: "GET" | "HEAD" | "POST";
  /** Lower-case names. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
  /** "lookup" by default, which also asks for compression. */
  readonly lane?: RequestLane;
  readonly headersTimeoutMs?: number;
  /** Counts the requests sent for this one and the bytes of bodies received, before decoding. */
  readonly cost?: TransferCost | undefined;
}

/**
 * Requests on behalf of caches, over http, https and file URLs: pooled connections, limits per
 * host, proxies, certificates, credentials, up to REDIRECTS_MAX admitted redirects (GET, HEAD).
 */
export interface HttpClient extends AsyncDisposable {
  /**
   * Resolves with the answer once its headers are there, whatever the status. `url` must have been
   * admitted. A GET or HEAD whose kept connection broke before an answer is sent again.
   * Rejects UNAVAILABLE (no connection, no answer in time), DENIED (a redirect or an address that
   * is not admitted), EXHAUSTED (too many wait), CLOSED, or with the signal's reason.
   */
  request(url: URL, request: HttpRequest): Promise<HttpResponse>;
  /** What was measured of the way to the URL's origin; ORDINARY_LINK before anything was. */
  link(url: URL): LinkSpeed;
  /** Ends all requests and connections. Idempotent. */
  close(): Promise<void>;
}

export function createHttpClient(options: HttpClientOptions = {}): HttpClient {
  return new PooledHttpClient(options);
}

/** Nothing to wait for, and faster than what is done with the bytes. */
const LOCAL_FILES: LinkSpeed = { bytesPerSecond: 1e9, roundTripMs: 0 };

/** Tells the hooks, and whoever counts the cost of a request, of what passes. */
interface TransferCounter {
  requested(method: string): void;
  counted(body: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array>;
}

class PooledHttpClient implements HttpClient {
  readonly #options: HttpClientOptions;
  readonly #environment: Environment;
  readonly #proxyFor: ProxyChoice;
  readonly #pools = new Map<string, ConnectionPool>();
  readonly #gates = new Map<string, RequestGate>();
  readonly #meters = new Map<string, LinkMeter>();
  /** The farthest address that each cache's own origin was seen at. */
  readonly #scopes = new Map<string, AddressScope>();
  #tlsContext: SecureContext | undefined;
  #isClosed = false;

  constructor(options: HttpClientOptions) {
    this.#options = options;
    this.#environment = options.environment ?? process.env;
    this.#proxyFor = proxyChoiceFrom(this.#environment);
  }

  async request(url: URL, request: HttpRequest): Promise<HttpResponse> {
    const { policy, method = "GET" } = request;
    if (url.protocol === "file:") {
      const counter = this.#counter(url, request.cost);
      counter.requested(method);
      const { headers = {}, signal } = request;
      const response = await requestFile(url, { method, headers, base: policy.base, signal });
      return { ...response, body: counter.counted(response.body) };
    }
    let target = url;
    let isHome = isSameOrigin(url, policy.base);
    for (let redirects = 0; ; redirects++) {
      const response = await this.#send(target, request, isHome);
      const { location } = response.headers;
      const isRedirect = [301, 302, 303, 307, 308].includes(response.status);
      if (!isRedirect || location === undefined || method === "POST") return response;
      response.discard();
      if (redirects === REDIRECTS_MAX) {
        const reason = `more than ${REDIRECTS_MAX} redirects`;
        throw new CastoreError("UNAVAILABLE", `${method} ${displayUrl(url)}: ${reason}`);
      }
      target = admitUrl(location, "redirect", policy, target);
      isHome &&= isSameOrigin(target, policy.base);
    }
  }

  link(url: URL): LinkSpeed {
    return url.protocol === "file:" ? LOCAL_FILES : this.#meter(url).speed;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const pool of this.#pools.values()) pool.close();
    this.#pools.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #send(url: URL, request: HttpRequest, isHome: boolean): Promise<HttpResponse> {
    const { lane = "lookup", method = "GET", signal } = request;
    const leave = await this.#gate(url.origin).enter(lane, { signal });
    try {
      const counter = this.#counter(url, request.cost);
      const message = this.#message(url, request, isHome);
      const pool = this.#pool(url, isHome ? undefined : this.#reach(request.policy.base));
      for (;;) {
        signal?.throwIfAborted();
        const exchange = new Exchange(pool, signal, leave);
        try {
          counter.requested(method);
          const sentAt = performance.now();
          const answer = await exchange.connection.client.request(message);
          const connection = exchange.connection.isKept ? "kept" : "new";
          this.#meter(url).answered(performance.now() - sentAt, connection);
          this.#options.hooks?.onResponse?.(url, answer.statusCode);
          return this.#response(url, answer, method, exchange, counter);
        } catch (error) {
          exchange.end("drop");
          const mayRepeat = exchange.connection.isKept && method !== "POST" && !signal?.aborted;
          if (!mayRepeat || !isBrokenConnection(error)) throw error;
        }
      }
    } catch (error) {
      leave();
      throw this.#failure(url, error, method, signal);
    }
  }

  #message(url: URL, request: HttpRequest, isHome: boolean): Dispatcher.RequestOptions {
    const { method = "GET", lane = "lookup" } = request;
    const proxy = url.protocol === "http:" ? this.#proxyFor(url) : undefined;
    const proxyUser = proxy === undefined ? undefined : proxyAuthorization(proxy);
    const user = isHome ? this.#options.credentialsFor?.(url) : undefined;
    const basic = user && Buffer.from(`${user.user}:${user.password}`).toString("base64");
    return {
      method,
      path: proxy === undefined ? url.pathname + url.search : url.href,
      headers: {
        "user-agent": this.#options.userAgent ?? "castore",
        "accept-encoding": lane === "lookup" ? ACCEPTED_ENCODINGS : "identity",
        ...request.headers,
        ...(basic === undefined ? {} : { authorization: `Basic ${basic}` }),
        ...(proxyUser === undefined ? {} : { "proxy-authorization": proxyUser }),
      },
      body: request.body ?? null,
      headersTimeout:
        request.headersTimeoutMs ?? this.#options.headersTimeoutMs ?? HEADERS_TIMEOUT_MS,
      bodyTimeout: this.#options.stallTimeoutMs ?? STALL_TIMEOUT_MS,
    };
  }

  #response(
    url: URL,
    { statusCode: status, headers: rawHeaders, body: readable }: Dispatcher.ResponseData,
    method: string,
    exchange: Exchange,
    counter: TransferCounter,
  ): HttpResponse {
    readable.once("end", () => exchange.end("keep")).once("close", () => exchange.end("drop"));
    readable.on("error", () => {});
    const headers: Record<string, string | undefined> = {};
    for (const [name, value] of Object.entries(rawHeaders)) {
      headers[name] = Array.isArray(value) ? value.join(", ") : value;
    }
    const meter = this.#meter(url);
    const fail = (error: unknown) => this.#failure(url, error, method, exchange.signal);
    const read = async function* (): AsyncGenerator<Uint8Array> {
      meter.bodyStarts();
      try {
        for await (const piece of counter.counted(readable)) {
          meter.received(piece.length);
          yield piece;
        }
      } catch (error) {
        throw fail(error);
      } finally {
        meter.bodyEnds();
        if (!readable.readableEnded) exchange.end("drop");
      }
    };
    const discard = () => {
      const length = Number(headers["content-length"] ?? Number.POSITIVE_INFINITY);
      if (length <= DRAIN_BYTES_MAX) readable.resume();
      else exchange.end("drop");
    };
    const isEmpty = method === "HEAD" || status === 204 || status === 304;
    if (isEmpty) readable.resume();
    const contentEncoding = parseContentEncoding(headers["content-encoding"]);
    const body =
      contentEncoding === undefined || isEmpty
        ? read()
        : decodeContent(read(), contentEncoding, displayUrl(url));
    return { status, url, headers, contentEncoding, body, discard };
  }

  #counter(url: URL, cost: TransferCost | undefined): TransferCounter {
    const { hooks } = this.#options;
    return {
      requested(method) {
        hooks?.onRequest?.(url, method);
        if (cost !== undefined) cost.requests++;
      },
      async *counted(body) {
        for await (const piece of body) {
          hooks?.onBytes?.(url, piece.byteLength);
          if (cost !== undefined) cost.bytes += piece.byteLength;
          yield piece;
        }
      },
    };
  }

  #meter({ origin }: URL): LinkMeter {
    const meter = this.#meters.get(origin) ?? new LinkMeter();
    this.#meters.delete(origin); // to stand last: the first is the one not used for longest
    this.#meters.set(origin, meter);
    for (const [name] of this.#meters) {
      if (this.#meters.size <= ORIGINS_MAX) break;
      this.#meters.delete(name);
    }
    return meter;
  }

  #gate(origin: string): RequestGate {
    if (this.#isClosed) throw new CastoreError("CLOSED", `${origin}: the HTTP client is closed`);
    let gate = this.#gates.get(origin);
    if (gate === undefined) {
      for (const [name, other] of this.#gates) {
        if (this.#gates.size < ORIGINS_MAX) break;
        if (other.isIdle) this.#gates.delete(name);
      }
      gate = new RequestGate({
        requestsMax: this.#options.requestsPerHostMax ?? REQUESTS_PER_HOST_MAX,
        transfersMax: this.#options.transfersPerHostMax ?? TRANSFERS_PER_HOST_MAX,
        queuedMax: this.#options.requestsQueuedMax ?? REQUESTS_QUEUED_MAX,
        name: origin,
      });
      this.#gates.set(origin, gate);
    }
    return gate;
  }

  /** How near to this machine another host's address may be when `base` leads there. */
  #reach(base: URL): AddressScope {
    return this.#scopes.get(base.origin) ?? literalScope(base.hostname) ?? "public";
  }

  #pool(url: URL, nearest: AddressScope | undefined): ConnectionPool {
    if (this.#isClosed) throw new CastoreError("CLOSED", "the HTTP client is closed");
    const key = `${nearest ?? "home"} ${url.origin}`;
    let pool = this.#pools.get(key);
    this.#pools.delete(key); // to stand last: the first is the one not used for longest
    for (const [name, other] of this.#pools) {
      if (this.#pools.size < ORIGINS_MAX) break;
      if (!other.isIdle) continue;
      this.#pools.delete(name);
      other.close();
    }
    pool ??= new ConnectionPool(url.origin, this.#connector(url, nearest));
    this.#pools.set(key, pool);
    return pool;
  }

  #connector(url: URL, nearest: AddressScope | undefined): ReturnType<typeof createConnector> {
    return createConnector({
      connectTimeoutMs: this.#options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS,
      tlsContext: () => {
        this.#tlsContext ??= createTlsContext(this.#environment);
        return this.#tlsContext;
      },
      nearest,
      onConnected: (scope) => {
        if (nearest !== undefined) return;
        const seen = this.#scopes.get(url.origin) ?? scope;
        this.#scopes.set(url.origin, isWithinReach(scope, seen) ? scope : seen);
      },
      proxy: this.#proxyFor(url),
      lookup: this.#options.lookup,
    });
  }

  #failure(url: URL, error: unknown, method: string, signal: AbortSignal | undefined): unknown {
    if (signal?.aborted) return signal.reason;
    if (isCastoreError(error)) return error;
    const name = `${method} ${displayUrl(url)}`;
    if (this.#isClosed) {
      return new CastoreError("CLOSED", `${name}: the HTTP client was closed`, { cause: error });
    }
    return new CastoreError("UNAVAILABLE", `${name}: ${describeFailure(error)}`, { cause: error });
  }
}
