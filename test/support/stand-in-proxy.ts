import { createServer, request as forward } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";

export interface StandInProxy extends AsyncDisposable {
  readonly url: string;
  /** "CONNECT host:port" and "GET http://…", in order. */
  readonly requests: string[];
}

/** An HTTP proxy on loopback. With `to`, every tunnel leads there, whatever its name. */
export async function startStandInProxy(
  options: { readonly authorization?: string; readonly to?: { readonly port: number } } = {},
): Promise<StandInProxy> {
  const requests: string[] = [];
  const sockets = new Set<Socket>();
  const isAllowed = (authorization: string | undefined) =>
    options.authorization === undefined || authorization === options.authorization;
  const server = createServer((request, response) => {
    requests.push(`${request.method} ${request.url}`);
    const { "proxy-authorization": authorization, ...headers } = request.headers;
    if (!isAllowed(authorization)) {
      response.writeHead(407, { "proxy-authenticate": "Basic" }).end();
      return;
    }
    const { hostname, port, pathname, search } = new URL(request.url ?? "");
    const target = options.to ?? { port: Number(port || 80) };
    const host = options.to === undefined ? hostname : "127.0.0.1";
    const upstream = forward(
      { host, port: target.port, path: pathname + search, method: request.method, headers },
      (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(response);
      },
    );
    upstream.once("error", () => response.destroy());
    request.pipe(upstream);
  });
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket)).on("error", () => {});
  });
  server.on("connect", (request, socket: Socket) => {
    requests.push(`CONNECT ${request.url}`);
    if (!isAllowed(request.headers["proxy-authorization"])) {
      socket.end("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
      return;
    }
    const [, host = "", port = ""] = /^(.*):(\d+)$/.exec(request.url ?? "") ?? [];
    const target = options.to ?? { port: Number(port) };
    const tunnel = connect(target.port, options.to === undefined ? host : "127.0.0.1", () => {
      socket.write("HTTP/1.1 200 Connection established\r\n\r\n");
      tunnel.pipe(socket).pipe(tunnel);
    });
    tunnel.once("error", () => socket.destroy()).once("close", () => socket.destroy());
    socket.once("close", () => tunnel.destroy()).on("error", () => {});
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    requests,
    async [Symbol.asyncDispose]() {
      const closed = new Promise((resolve) => server.close(resolve));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}
