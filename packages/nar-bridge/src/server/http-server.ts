import { lstat, rm } from "node:fs/promises";
import { connect } from "node:net";
import { CastoreError, type LocalStore } from "@castore/castore";
import type { FastifyInstance } from "fastify";
import type { Log } from "../log.ts";
import { WANTED } from "../upstream/http-request.ts";
import { fastify } from "../upstream/lazy-modules.ts";
import { httpStatusOf } from "./http-status.ts";

/** Longest request line and headers: a snix-flavoured NAR URL may hold a long symlink target. */
const HEADER_BYTES_MAX = 32 * 1024;

/** Where a server listens. Port 0 picks a free one. */
export type ListenAddress =
  | { readonly host: string; readonly port: number }
  | { readonly path: string };

/** An HTTP server without routes: bodies of requests are streams, errors become statuses. */
export function createHttpServer(log: Log): FastifyInstance {
  const server = fastify().fastify({
    forceCloseConnections: true,
    exposeHeadRoutes: false,
    routerOptions: { maxParamLength: HEADER_BYTES_MAX },
    http: { maxHeaderSize: HEADER_BYTES_MAX },
  });
  // A client that asks first sends its body only once a handler wants it: no refused gigabytes.
  server.server.on("checkContinue", (request, response) => {
    request.once(WANTED, () => response.writeContinue());
    server.routing(request, response);
  });
  server.removeAllContentTypeParsers();
  server.addContentTypeParser("*", (_request, payload, done) => done(null, payload));
  server.setNotFoundHandler(async (_request, reply) => {
    await reply.code(404).type("text/plain").send("404: no such thing here\n");
  });
  server.setErrorHandler(async (error, request, reply) => {
    if (error instanceof CastoreError && error.code === "CLOSED" && reply.raw.destroyed) return;
    const known = error instanceof CastoreError;
    const status = httpStatusOf(error, request.method === "PUT" ? "upload" : "download");
    const text = known ? error.message : error instanceof Error ? error.stack : String(error);
    if (status >= 500 || !known) log(`${request.method} ${request.url}: ${text}`);
    if (reply.raw.headersSent) {
      reply.raw.destroy();
      return;
    }
    const line = known ? error.message.replaceAll("\n", " ") : "internal error";
    await reply.code(status).type("text/plain").send(`${status}: ${line}\n`);
  });
  return server;
}

/** Until an answer is sent, or its client gone, nothing of `store` that it needs is collected. */
export function holdStore(server: FastifyInstance, store: LocalStore): void {
  server.addHook("onRequest", async (_request, reply) => {
    const lease = store.lease();
    reply.raw.once("close", () => lease.release());
  });
}

/** Starts to listen and resolves with the address for people and other programs. */
export async function listen(server: FastifyInstance, address: ListenAddress): Promise<string> {
  if (!("path" in address)) return await server.listen(address);
  await removeDeadSocket(address.path);
  await server.listen({ path: address.path });
  return `unix:${address.path}`;
}

/** A socket that a killed server left behind must not keep the next one from starting. */
async function removeDeadSocket(path: string): Promise<void> {
  const entry = await lstat(path).catch(() => undefined);
  if (entry?.isSocket() !== true) return;
  const isDead = await new Promise<boolean>((resolve) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(false);
    });
    socket.once("error", () => resolve(true));
  });
  if (isDead) await rm(path, { force: true });
}
