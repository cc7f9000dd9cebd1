import { createServer, type IncomingMessage, request, type ServerResponse } from "node:http";
import type { Socket } from "node:net";

export interface FickleProxy extends AsyncDisposable {
  readonly url: string;
  /** Passes all on; flips a bit in the middle of each body; or closes each connection at once. */
  mood: "honest" | "lying" | "away";
}

/** Stands before an http server on loopback, and may change its mood at any time. */
export async function startFickleProxy(target: string): Promise<FickleProxy> {
  const { hostname, port } = new URL(target);
  const sockets = new Set<Socket>();
  const proxy = { mood: "honest" as FickleProxy["mood"] };
  const forward = (message: IncomingMessage, response: ServerResponse): void => {
    const { method, url: path, headers } = message;
    const options = { hostname, port, method, path, headers };
    const outgoing = request(options, (answer) => {
      response.writeHead(answer.statusCode ?? 0, answer.rawHeaders);
      if (proxy.mood === "honest") answer.pipe(response);
      else void answer.toArray().then((pieces) => response.end(flipped(Buffer.concat(pieces))));
    });
    outgoing.on("error", () => response.destroy());
    response.once("close", () => outgoing.destroy());
    message.pipe(outgoing);
  };
  const server = createServer(forward);
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.once("close", () => sockets.delete(socket));
    if (proxy.mood === "away") socket.destroy();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the proxy has no port");
  return {
    url: `http://127.0.0.1:${address.port}`,
    get mood() {
      return proxy.mood;
    },
    set mood(mood) {
      proxy.mood = mood;
      // Those that are open would go on as before.
      for (const socket of sockets) socket.destroy();
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function flipped(body: Buffer): Buffer {
  const at = body.length >> 1;
  if (at > 0) body[at] = (body[at] ?? 0) ^ 1;
  return body;
}
