import { once } from "node:events";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { setTimeout } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { parseCacheUrl } from "../src/upstream/admission.ts";
import { createHttpClient } from "../src/upstream/http-client.ts";
import { closeAfterEach } from "./close-after-each.ts";

const use = closeAfterEach();

/** More than lies in the buffers of both sides. */
const BODY = Buffer.alloc(10_000_000, "castore ");

const FRAMINGS = {
  "a length": `Content-Length: ${BODY.length}\r\nConnection: close\r\n`,
  "a length, the end of the connection unannounced": `Content-Length: ${BODY.length}\r\n`,
  "the end of the connection": "Connection: close\r\n",
  chunks: "Transfer-Encoding: chunked\r\nConnection: close\r\n",
};

/** Answers each connection once, by `answer`. */
async function startServer(answer: (socket: Socket) => void) {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.once("data", () => answer(socket));
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}/`,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

/** How many bytes come, if each piece is looked at for `pauseMs`. */
async function readSlowly(url: string, pauseMs: number): Promise<number> {
  const client = await use(Promise.resolve(createHttpClient({ environment: {} })));
  const policy = { base: parseCacheUrl(url) };
  const { body } = await client.request(policy.base, { policy, lane: "transfer" });
  let bytes = 0;
  for await (const piece of body) {
    bytes += piece.byteLength;
    await setTimeout(pauseMs);
  }
  return bytes;
}

describe("a server that closes the connection before a slow reader has the answer", () => {
  const unread: unknown[] = [];
  const note = (error: unknown) => unread.push(error);
  beforeAll(() => void process.on("uncaughtException", note));
  afterAll(() => void process.off("uncaughtException", note));
  afterEach(() => expect(unread.splice(0)).toEqual([]));

  it.each(Object.entries(FRAMINGS))("has passed all of it, framed by %s", async (_, headers) => {
    const server = await use(
      startServer((socket) => {
        socket.write(`HTTP/1.1 200 OK\r\n${headers}\r\n`);
        if (!headers.includes("chunked")) socket.write(BODY);
        else socket.write(`${BODY.length.toString(16)}\r\n${BODY}\r\n0\r\n\r\n`);
        socket.destroySoon();
      }),
    );
    const counts = await Promise.all([1, 2, 3, 5].map((ms) => readSlowly(server.url, ms)));
    expect(counts).toEqual(counts.map(() => BODY.length));
  });

  // Where nothing but the end of the connection tells, undici takes a reset for one.
  const told = Object.entries(FRAMINGS).filter(([name]) => name !== "the end of the connection");
  it.each(told)("and resets it, framed by %s, fails", async (_, headers) => {
    const server = await use(
      startServer((socket) => {
        socket.write(`HTTP/1.1 200 OK\r\n${headers}\r\n`);
        if (headers.includes("chunked")) socket.write(`${BODY.length.toString(16)}\r\n`);
        socket.write(BODY.subarray(0, 3_000_000), () => socket.resetAndDestroy());
      }),
    );
    await expect(readSlowly(server.url, 2)).rejects.toMatchObject({ code: "UNAVAILABLE" });
  });
});
