import { CastoreError, messageOf } from "@castore/castore";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { Log } from "../log.ts";
import { formatCacheInfo } from "../nix/cache-info.ts";
import { formatBridgedNarUrl, parseStoreHashFile } from "../nix/cache-url.ts";
import { narInfoServedAt } from "../nix/nar-info.ts";
import { formatNarInfo } from "../nix/nar-info-text.ts";
import { type StoreDir, type StoreHash, storePathHash } from "../nix/store-path.ts";
import type { BridgeMetrics } from "../substitution/bridge-metrics.ts";
import type { Substituter } from "../substitution/substituter.ts";
import type { UpstreamSet } from "../upstream/upstream-set.ts";
import { BridgedNars } from "./bridged-nars.ts";
import { clientSignal, sendBytes } from "./http-reply.ts";
import { createHttpServer } from "./http-server.ts";

/** Before cache.nixos.org, which says 40. */
export const BRIDGE_PRIORITY = 30;
/** Routes answered from the first upstream that has them. */
const PASSED_ON = ["log/*", "realisations/*", "build-trace-v2/*", "debuginfo/*"];
/** What may pass of an upstream's headers. */
const PASSED_HEADERS = ["content-type", "content-length", "last-modified", "etag"];

export interface BridgeServerOptions {
  readonly substituter: Substituter;
  readonly upstreams: UpstreamSet;
  readonly storeDir: StoreDir;
  readonly metrics: BridgeMetrics;
  readonly log: Log;
}

/** The local substituter: a binary cache to Nix, whose contents come from upstreams. */
export function createBridgeServer(options: BridgeServerOptions): FastifyInstance {
  const { metrics, storeDir } = options;
  const server = createHttpServer(options.log);
  const cacheInfo = formatCacheInfo({
    storeDir,
    wantMassQuery: true,
    priority: BRIDGE_PRIORITY,
    upgrades: [],
  });
  server.addHook("onResponse", async (request, reply) => {
    const route = request.routeOptions.url ?? "unknown";
    metrics.answers.inc({ route, status: reply.raw.statusCode });
  });
  server.get("/", async (_request, reply) => {
    await reply.type("text/plain").send("castore bridge: a substituter for Nix\n");
  });
  server.route({
    method: ["GET", "HEAD"],
    url: "/nix-cache-info",
    handler: async (_request, reply) => {
      await reply.type("text/x-nix-cache-info").send(cacheInfo);
    },
  });
  server.get("/healthz", async (_request, reply) => {
    await reply.type("text/plain").send("ok\n");
  });
  server.get("/metrics", async (_request, reply) => {
    await reply.type(metrics.registry.contentType).send(await metrics.registry.metrics());
  });
  const nars = new BridgedNars(options);
  server.route({
    method: ["GET", "HEAD"],
    url: "/nar/:file",
    handler: async (request, reply) => await nars.answer(request, reply),
  });
  server.route({
    method: ["GET", "HEAD"],
    url: "/:file",
    handler: async (request, reply) => await answerTopLevel(options, request, reply),
  });
  for (const route of PASSED_ON) {
    server.route({
      method: ["GET", "HEAD"],
      url: `/${route}`,
      handler: async (request, reply) => await passOn(options, request, reply),
    });
  }
  server.route({
    method: ["PUT", "POST", "PATCH", "DELETE"],
    url: "/*",
    handler: async () => {
      throw new CastoreError("READ_ONLY", "the bridge takes no uploads");
    },
  });
  return server;
}

async function answerTopLevel(
  options: BridgeServerOptions,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<void> {
  const { file } = request.params as { readonly file: string };
  const asked = parseStoreHashFile(file);
  if (asked === undefined) return reply.callNotFound();
  if (asked.type === "listing") return await passOn(options, request, reply);
  await answerNarInfo(options, asked.storeHash, reply);
}

/** A narinfo request is never answered 5xx: old clients would give up the whole build. */
async function answerNarInfo(
  { substituter, log }: BridgeServerOptions,
  storeHash: StoreHash,
  reply: FastifyReply,
): Promise<void> {
  const signal = clientSignal(reply);
  try {
    const narInfo = await substituter.narInfo(storeHash, { signal });
    if (narInfo === undefined) return reply.callNotFound();
    const url = formatBridgedNarUrl({
      storeHash: storePathHash(narInfo.storePath),
      narHash: narInfo.narHash,
    });
    await reply.type("text/x-nix-narinfo").send(formatNarInfo(narInfoServedAt(narInfo, url)));
  } catch (error) {
    if (signal.aborted) return;
    log(`${storeHash}.narinfo: ${error instanceof Error ? error.stack : String(error)}`);
    if (!reply.sent) reply.callNotFound();
  }
}

/** Answers with what the first upstream has that has it. */
async function passOn(
  { upstreams, log }: BridgeServerOptions,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<void> {
  const signal = clientSignal(reply);
  const path = request.url.slice(1);
  try {
    const method = request.method === "HEAD" ? "HEAD" : "GET";
    const answer = await upstreams.firstAnswer(path, { signal, method });
    if (answer === undefined) return reply.callNotFound();
    const headers: Record<string, string> = {};
    for (const name of PASSED_HEADERS) {
      const value = answer.headers[name];
      // A body that was decoded on the way has another length.
      const isLength = name === "content-length" && answer.contentEncoding !== undefined;
      if (value !== undefined && !isLength) headers[name] = value;
    }
    if (request.method === "HEAD") {
      answer.discard();
      await reply.headers(headers).send();
      return;
    }
    await sendBytes(reply, 200, headers, answer.body);
  } catch (error) {
    if (signal.aborted) return;
    log(`${path}: ${messageOf(error)}`);
    if (!reply.raw.headersSent && !reply.sent) reply.callNotFound();
  }
}
