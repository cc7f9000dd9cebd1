import { EventEmitter } from "node:events";
import { createReadStream, statSync } from "node:fs";
import {
  createServer,
  type IncomingMessage,
  type OutgoingHttpHeaders,
  type RequestListener,
  type ServerResponse,
} from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { join } from "node:path";
import { type CacheFault, faultyBody } from "./cache-fault.ts";
import type { ThrowAwayCertificate } from "./throw-away-certificate.ts";

/** Which kind of object a path names. */
export type PathClass =
  | "nix-cache-info"
  | "narinfo"
  | "nar"
  | "ls"
  | "log"
  | "realisations"
  | "debuginfo"
  | "castore"
  | "other";

export interface SeenRequest {
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  readonly query: string;
  readonly pathClass: PathClass;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  /** 0 until something was answered. */
  status: number;
  /** Bytes of the answer's body that were handed to the connection. */
  bytes: number;
  /** The client closed the connection before the answer was complete. */
  isAborted: boolean;
}

export type Matcher = string | RegExp | ((request: SeenRequest) => boolean);

/** An object's bytes and headers, or a whole answer of the handler's own. */
export type Handler = (
  request: IncomingMessage,
  response: ServerResponse,
) => StandInObject | undefined | Promise<StandInObject | undefined>;

export interface StandInObject {
  readonly body: Uint8Array | string;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface StandInCacheOptions {
  /** Served as a plain binary cache: a file per path. */
  readonly directory?: string;
  /** Objects by path ("/nix-cache-info"); they go before the directory's files. */
  readonly objects?: Readonly<Record<string, StandInObject | string | Uint8Array | Handler>>;
  readonly tls?: ThrowAwayCertificate;
  readonly basicAuth?: { readonly user: string; readonly password: string };
  /** 127.0.0.1 by default. */
  readonly host?: string;
  readonly port?: number;
}

interface PlannedFault {
  readonly matches: (request: SeenRequest) => boolean;
  readonly fault: CacheFault;
  times: number;
}

/** A binary cache on loopback that counts what it is asked and fails as it is told. */
export class StandInCache {
  /** http(s)://host:port, without a slash. */
  readonly origin: string;
  readonly requests: SeenRequest[] = [];
  /** Connections accepted so far. */
  connectionsMade = 0;
  readonly objects: Map<string, StandInObject | string | Uint8Array | Handler>;
  readonly #options: StandInCacheOptions;
  readonly #server: ReturnType<typeof createServer>;
  readonly #sockets = new Set<Socket>();
  readonly #events = new EventEmitter().setMaxListeners(0);
  #faults: PlannedFault[] = [];

  static async start(options: StandInCacheOptions = {}): Promise<StandInCache> {
    const cache: { current: StandInCache | undefined } = { current: undefined };
    const listener: RequestListener = (request, response) =>
      void cache.current?.handle(request, response);
    const server =
      options.tls === undefined ? createServer(listener) : createTlsServer(options.tls, listener);
    const host = options.host ?? "127.0.0.1";
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject).listen(options.port ?? 0, host, resolve);
    });
    const { port } = server.address() as AddressInfo;
    const scheme = options.tls === undefined ? "http" : "https";
    const authority = host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
    cache.current = new StandInCache(`${scheme}://${authority}`, server, options);
    return cache.current;
  }

  private constructor(
    origin: string,
    server: ReturnType<typeof createServer>,
    options: StandInCacheOptions,
  ) {
    this.origin = origin;
    this.#server = server;
    this.#options = options;
    this.objects = new Map(Object.entries(options.objects ?? {}));
    server.keepAliveTimeout = 60_000;
    server.on("connection", (socket: Socket) => {
      this.connectionsMade++;
      this.#sockets.add(socket);
      socket.once("close", () => {
        this.#sockets.delete(socket);
        this.#events.emit("change");
      });
    });
  }

  /** Connections that are open. */
  get connections(): number {
    return this.#sockets.size;
  }

  /** The next `times` requests that match fail so; earlier faults go first. */
  fail(matcher: Matcher, fault: CacheFault, times = Number.POSITIVE_INFINITY): void {
    this.#faults.push({ matches: predicate(matcher), fault, times });
  }

  /** Forgets all faults; requests that hang go on hanging. */
  heal(): void {
    this.#faults = [];
  }

  seen(matcher: Matcher): SeenRequest[] {
    return this.requests.filter(predicate(matcher));
  }

  /** Requests and body bytes by class of path. */
  counts(): Partial<Record<PathClass, { requests: number; bytes: number }>> {
    const counts: Partial<Record<PathClass, { requests: number; bytes: number }>> = {};
    for (const { pathClass, bytes } of this.requests) {
      const entry = counts[pathClass] ?? { requests: 0, bytes: 0 };
      counts[pathClass] = { requests: entry.requests + 1, bytes: entry.bytes + bytes };
    }
    return counts;
  }

  /** Forgets the requests seen so far. */
  resetCounts(): void {
    this.requests.length = 0;
  }

  /** Resolves once `condition` holds; looked at whenever a request or a connection changes. */
  async until(condition: (cache: StandInCache) => boolean): Promise<void> {
    while (!condition(this)) {
      await new Promise<void>((resolve) => this.#events.once("change", resolve));
    }
  }

  /** Closes all connections that are open now; the server goes on. */
  dropConnections(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.dropConnections();
    await closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Answers one request; for a server of one's own that mixes in these answers. */
  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "/", this.origin);
    const path = decodeURIComponent(url.pathname);
    const { method = "GET", headers } = request;
    const seen: SeenRequest = {
      ...{ method, path, query: url.search, pathClass: classOf(path), headers },
      ...{ status: 0, bytes: 0, isAborted: false },
    };
    this.requests.push(seen);
    response.once("close", () => {
      seen.isAborted = !response.writableFinished;
      this.#events.emit("change");
    });
    this.#events.emit("change");
    const fault = this.#takeFault(seen);
    try {
      if (this.#failsWhole(fault, request, response)) return;
      await this.#answer(seen, fault, request, response);
    } catch (error) {
      response.destroy(error instanceof Error ? error : undefined);
    } finally {
      seen.status = response.statusCode;
      this.#events.emit("change");
    }
  }

  #takeFault(seen: SeenRequest): CacheFault | undefined {
    const planned = this.#faults.find(({ matches, times }) => times > 0 && matches(seen));
    if (planned === undefined) return undefined;
    planned.times--;
    return planned.fault;
  }

  /** Faults that need no object, and the lack of a password. */
  #failsWhole(
    fault: CacheFault | undefined,
    { headers }: IncomingMessage,
    response: ServerResponse,
  ): boolean {
    const { basicAuth } = this.#options;
    if (fault?.kind === "hang") return true;
    if (fault?.kind === "reset") response.socket?.resetAndDestroy();
    else if (fault?.kind === "status") {
      response.writeHead(fault.status, { ...fault.headers }).end(fault.body ?? "");
    } else if (fault?.kind === "redirect") {
      response.writeHead(fault.status ?? 302, { location: fault.to }).end();
    } else if (fault?.kind === "html") {
      const page = "<!DOCTYPE html><html><body>Please log in</body></html>";
      response.writeHead(200, { "content-type": "text/html; charset=utf-8" }).end(page);
    } else if (basicAuth !== undefined) {
      const user = Buffer.from(`${basicAuth.user}:${basicAuth.password}`).toString("base64");
      if (headers.authorization === `Basic ${user}`) return false;
      response.writeHead(401, { "www-authenticate": "Basic" }).end();
    } else return false;
    return true;
  }

  async #answer(
    seen: SeenRequest,
    fault: CacheFault | undefined,
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const object = await this.#find(seen.path, request, response);
    if (response.headersSent || response.writableEnded) return;
    if (object === undefined) {
      response.writeHead(404, { "content-type": "text/plain" }).end("404");
      return;
    }
    const hasRanges = fault?.kind !== "noRanges";
    const { size, etag } = object;
    const asked = hasRanges && request.headers.range ? parseRange(request, size, etag) : undefined;
    if (asked === "outside") {
      response.writeHead(416, { "content-range": `bytes */${size}` }).end();
      return;
    }
    let [start, end] = asked ?? [0, size];
    const headers: OutgoingHttpHeaders = {
      "content-type": CONTENT_TYPES[seen.pathClass] ?? "application/octet-stream",
      ...(hasRanges ? { "accept-ranges": "bytes", etag } : {}),
      ...(asked === undefined ? {} : { "content-range": `bytes ${start}-${end - 1}/${size}` }),
      "content-length": end - start + (fault?.kind === "contentLength" ? fault.delta : 0),
      ...object.headers,
    };
    if (fault?.kind === "wrongRange" && asked !== undefined) {
      if (fault.how === "whole") [start, end] = [0, size];
      else [start, end] = [start - 1, end - 1];
      headers["content-length"] = end - start;
      headers["content-range"] = `bytes ${start}-${end - 1}/${size}`;
    }
    if (fault?.kind === "headers") Object.assign(headers, fault.headers);
    for (const [name, value] of Object.entries(headers)) if (!value) delete headers[name];
    response.strictContentLength = false;
    response.writeHead(asked === undefined ? 200 : 206, headers);
    if (request.method === "HEAD") response.end();
    else await send(faultyBody(object.read(start, end), fault, start), seen, fault, response);
  }

  async #find(path: string, request: IncomingMessage, response: ServerResponse) {
    const given = this.objects.get(path);
    if (given !== undefined) {
      const object = typeof given === "function" ? await given(request, response) : given;
      if (object === undefined) return undefined;
      const { body, headers } =
        typeof object === "string" || object instanceof Uint8Array
          ? { body: object, headers: {} }
          : object;
      const bytes = Buffer.from(body); // a copy: a fault may flip its bits
      const read = async function* (start: number, end: number) {
        for (let at = start; at < end; at += PIECE_BYTES) {
          yield bytes.subarray(at, Math.min(at + PIECE_BYTES, end));
        }
      };
      return { size: bytes.length, etag: `"${bytes.length}"`, headers, read };
    }
    const { directory } = this.#options;
    if (directory === undefined || path.split("/").includes("..")) return undefined;
    const file = join(directory, path);
    const stat = statSync(file, { throwIfNoEntry: false });
    if (stat?.isFile() !== true) return undefined;
    const read = (start: number, end: number): AsyncIterable<Uint8Array> =>
      end > start
        ? createReadStream(file, { start, end: end - 1, highWaterMark: 4 * PIECE_BYTES })
        : (async function* () {})();
    return { size: stat.size, etag: `"${stat.size}-${stat.mtimeMs}"`, headers: {}, read };
  }
}

const PIECE_BYTES = 64 * 1024;

const CONTENT_TYPES: Partial<Record<PathClass, string>> = {
  "nix-cache-info": "text/x-nix-cache-info",
  narinfo: "text/x-nix-narinfo",
  nar: "application/x-nix-nar",
  ls: "application/json",
  realisations: "application/json",
  log: "text/plain; charset=utf-8",
};

async function send(
  body: AsyncIterable<Uint8Array>,
  seen: SeenRequest,
  fault: CacheFault | undefined,
  response: ServerResponse,
): Promise<void> {
  const stopsAt =
    fault?.kind === "cut" || fault?.kind === "stall" ? fault.afterBytes : Number.POSITIVE_INFINITY;
  const closed = new Promise<void>((resolve) => response.once("close", resolve));
  response.flushHeaders();
  for await (const piece of body) {
    if (response.destroyed) return;
    const part = piece.subarray(0, stopsAt - seen.bytes);
    seen.bytes += part.length;
    if (part.length > 0 && !response.write(part)) {
      await Promise.race([new Promise((resolve) => response.once("drain", resolve)), closed]);
    }
    if (seen.bytes >= stopsAt) break;
  }
  if (fault?.kind === "stall") return;
  // end() of the socket, not destroy(): what was written must still arrive.
  if (fault?.kind === "cut" || fault?.kind === "contentLength") response.socket?.end();
  else response.end();
}

function parseRange(
  { headers }: IncomingMessage,
  size: number,
  etag: string,
): [number, number] | "outside" | undefined {
  const match = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? "");
  const ifRange = headers["if-range"];
  if (match === null || (ifRange !== undefined && ifRange !== etag)) return undefined;
  const start = Number(match[1]);
  const end = match[2] ? Math.min(Number(match[2]) + 1, size) : size;
  return start < end ? [start, end] : "outside";
}

function classOf(path: string): PathClass {
  if (path.endsWith("/nix-cache-info")) return "nix-cache-info";
  if (path.endsWith(".narinfo")) return "narinfo";
  if (path.endsWith(".ls")) return "ls";
  const [, folder] = /\/(nar|log|realisations|build-trace-v2|debuginfo|castore)\//.exec(path) ?? [];
  if (folder === "build-trace-v2") return "realisations";
  const classes: readonly string[] = ["nar", "log", "realisations", "debuginfo", "castore"];
  return classes.includes(folder ?? "") ? (folder as PathClass) : "other";
}

function predicate(matcher: Matcher): (request: SeenRequest) => boolean {
  if (typeof matcher === "function") return matcher;
  if (typeof matcher === "string")
    return ({ path, pathClass }) => [path, pathClass].includes(matcher);
  return ({ path }) => matcher.test(path);
}
