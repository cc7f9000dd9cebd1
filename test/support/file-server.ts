import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";

export interface FileServer extends AsyncDisposable {
  readonly url: string;
  /** Every request so far, as `GET /nix-cache-info`. */
  readonly requests: string[];
}

/** A plain file server on loopback, nothing more: what a simple binary cache is. */
export async function serveFiles(directory: string): Promise<FileServer> {
  const requests: string[] = [];
  const server = createServer((request, response) => {
    requests.push(`${request.method} ${request.url}`);
    answer(directory, request, response).catch(() => response.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  return {
    url: `http://127.0.0.1:${address.port}`,
    requests,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function answer(
  directory: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const path = join(directory, decodeURIComponent(new URL(`http://x${request.url}`).pathname));
  const found = await stat(path).catch(() => undefined);
  if (!found?.isFile() || !path.startsWith(directory)) {
    response.writeHead(404).end();
    return;
  }
  response.writeHead(200, { "content-length": found.size });
  if (request.method === "HEAD") response.end();
  else await pipeline(createReadStream(path), response);
}
