import { Agent, createServer, type IncomingMessage, request, type ServerResponse } from "node:http";
import { pipeline } from "node:stream";

export interface CountedRequest {
  readonly method: string;
  /** With the query. */
  readonly path: string;
  status: number;
  /** Bytes of the bodies: what the client sent, what it was sent. */
  bytesUp: number;
  bytesDown: number;
}

export interface CountingProxy extends AsyncDisposable {
  readonly url: string;
  /** Since the last clear(), in the order of arrival. */
  readonly requests: readonly CountedRequest[];
  /** Bodies and heads of all answers, as they came from the target. */
  readonly bytesDown: number;
  clear(): void;
}

/** Stands before an http server on loopback, changes nothing, and counts. */
export async function startCountingProxy(target: string): Promise<CountingProxy> {
  const { hostname, port } = new URL(target);
  const agent = new Agent({ keepAlive: true, maxSockets: 64 });
  let requests: CountedRequest[] = [];
  let headBytes = 0;
  const forward = (message: IncomingMessage, response: ServerResponse): void => {
    const { method = "", url = "" } = message;
    const counted = { method, path: url, status: 0, bytesUp: 0, bytesDown: 0 };
    requests.push(counted);
    const options = { agent, hostname, port, method, path: url, headers: message.headers };
    const outgoing = request(options, (answer) => {
      counted.status = answer.statusCode ?? 0;
      headBytes += answer.rawHeaders.reduce((sum, text) => sum + text.length + 2, 20);
      answer.on("data", (bytes: Buffer) => {
        counted.bytesDown += bytes.byteLength;
      });
      response.writeHead(counted.status, answer.rawHeaders);
      pipeline(answer, response, () => {});
    });
    outgoing.on("error", () => response.destroy());
    response.once("close", () => outgoing.destroy());
    message.on("data", (bytes: Buffer) => {
      counted.bytesUp += bytes.byteLength;
    });
    pipeline(message, outgoing, () => {});
  };
  const server = createServer(forward);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the proxy has no port");
  return {
    url: `http://127.0.0.1:${address.port}`,
    get requests() {
      return requests;
    },
    get bytesDown() {
      return requests.reduce((sum, { bytesDown }) => sum + bytesDown, headBytes);
    },
    clear() {
      requests = [];
      headBytes = 0;
    },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      agent.destroy();
    },
  };
}
