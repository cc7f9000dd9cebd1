import { once } from "node:events";
import { createServer, type IncomingMessage, request, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface RelayedRequest {
  readonly method: string;
  readonly path: string;
  /** Bytes of the answer's body. */
  bytes: number;
}

export type RelayFault =
  | { readonly kind: "status"; readonly status: number }
  | { readonly kind: "html" | "hang" | "reset" }
  /** Sends the first part of the body, then closes or goes silent. */
  | { readonly kind: "cut" | "stall"; readonly part: number }
  | {
      readonly kind: "change";
      readonly change: (body: Buffer) => Uint8Array | Promise<Uint8Array>;
    };

/** Stands before a server, counts what passes and spoils what it is told to. */
export class Relay implements AsyncDisposable {
  readonly url: string;
  readonly requests: RelayedRequest[] = [];
  /** By a pattern of method and path: "POST /castore/fetch". */
  readonly faults: (readonly [RegExp, RelayFault])[] = [];
  readonly #server: ReturnType<typeof createServer>;

  static async start(target: string): Promise<Relay> {
    const relay: { current: Relay | undefined } = { current: undefined };
    const server = createServer((message, response) => {
      relay.current?.forward(target, message, response).catch(() => response.destroy());
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    relay.current = new Relay(`http://127.0.0.1:${port}`, server);
    return relay.current;
  }

  private constructor(url: string, server: ReturnType<typeof createServer>) {
    this.url = url;
    this.#server = server;
  }

  seen(pattern: RegExp): RelayedRequest[] {
    return this.requests.filter(({ method, path }) => pattern.test(`${method} ${path}`));
  }

  bytes(pattern: RegExp): number {
    return this.seen(pattern).reduce((sum, { bytes }) => sum + bytes, 0);
  }

  async forward(target: string, message: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = "", url = "" } = message;
    const seen = { method, path: url, bytes: 0 };
    this.requests.push(seen);
    const fault = this.faults.find(([pattern]) => pattern.test(`${method} ${url}`))?.[1];
    if (fault?.kind === "hang") return;
    if (fault?.kind === "reset") message.socket.destroy();
    if (fault?.kind === "status") response.writeHead(fault.status).end();
    if (fault?.kind === "html") {
      response.writeHead(200, { "content-type": "text/html" }).end("<html>log in</html>");
    }
    if (response.writableEnded || message.socket.destroyed) return;
    const outgoing = request(target + url, { method, headers: message.headers, agent: false });
    message.pipe(outgoing);
    const [answer] = (await once(outgoing, "response")) as [IncomingMessage];
    const pieces: Buffer[] = [];
    for await (const piece of answer) pieces.push(piece);
    let body: Uint8Array = Buffer.concat(pieces);
    if (fault?.kind === "change") body = await fault.change(Buffer.from(body));
    const { "content-length": _length, "transfer-encoding": _chunked, ...headers } = answer.headers;
    const isBody = method !== "HEAD";
    const length = isBody ? { "content-length": body.byteLength } : {};
    response.writeHead(answer.statusCode ?? 0, { ...headers, ...length });
    if (fault?.kind === "cut" || fault?.kind === "stall") {
      body = body.subarray(0, Math.floor(body.byteLength * fault.part));
      response.write(body, () => fault.kind === "cut" && response.destroy());
    } else response.end(isBody ? body : undefined);
    seen.bytes = body.byteLength;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.#server, "close");
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }
}
