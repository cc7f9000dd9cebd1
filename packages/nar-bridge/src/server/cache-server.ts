import type { LocalStore } from "@castore/castore";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { Log } from "../log.ts";
import { createNarLayout, type NarServices } from "../nar/nar-layout.ts";
import { formatNarListing } from "../nar/nar-listing.ts";
import { type CacheInfo, formatCacheInfo } from "../nix/cache-info.ts";
import { formatSnixNarUrl, parseSnixNarUrl, parseStoreHashFile } from "../nix/cache-url.ts";
import { formatNarInfo } from "../nix/nar-info-text.ts";
import type { StoreDir } from "../nix/store-path.ts";
import type { LocalPathInfoService } from "../path-infos/local-path-info-service.ts";
import { narInfoOf, type PathInfo } from "../path-infos/path-info.ts";
import type { PathInfoService } from "../path-infos/path-info-service.ts";
import type { RecipeStore } from "../path-infos/recipe-store.ts";
import { addCastoreRoutes, CASTORE_BASE } from "./castore-routes.ts";
import { createHttpServer, holdStore } from "./http-server.ts";
import { replyNar } from "./nar-reply.ts";
import { SharedNars } from "./shared-nars.ts";
import { addUploadRoutes, type UploadOptions } from "./upload-routes.ts";

/** After the bridge, before cache.nixos.org. */
export const SERVE_PRIORITY = 35;

export interface CacheServerOptions {
  readonly store: LocalStore;
  readonly pathInfos: LocalPathInfoService;
  readonly recipes: RecipeStore;
  readonly storeDir: StoreDir;
  readonly uploads: UploadOptions;
  /** Whether castore/1 is offered. */
  readonly upgrade: boolean;
  /** Public keys that sign roots here, `name:base64`. */
  readonly rootKeys: readonly string[];
  readonly log: Log;
}

/** A binary cache over a local store: for Nix, for snix, and for castore clients. */
export function createCacheServer(options: CacheServerOptions): FastifyInstance {
  const server = createHttpServer(options.log);
  holdStore(server, options.store);
  const upgrades = options.upgrade ? [{ protocol: "castore/1", url: CASTORE_BASE }] : [];
  addReadRoutes(server, { ...options, services: options.store, upgrades });
  const onUploaded = (pathInfo: PathInfo) => options.recipes.makeSoon(pathInfo);
  if (options.upgrade) addCastoreRoutes(server, options);
  addUploadRoutes(server, { ...options, ...(options.upgrade ? { onUploaded } : {}) });
  return server;
}

export interface ReadOnlyCacheServerOptions {
  readonly services: NarServices;
  readonly pathInfos: PathInfoService;
  readonly storeDir: StoreDir;
  readonly log: Log;
}

/** A binary cache over services that may be anywhere, such as a bucket. Keeps nothing itself. */
export function createReadOnlyCacheServer(options: ReadOnlyCacheServerOptions): FastifyInstance {
  const server = createHttpServer(options.log);
  addReadRoutes(server, { ...options, upgrades: [] });
  server.put("/*", async (_request, reply) => {
    await reply.code(405).header("allow", "GET, HEAD").type("text/plain").send("405: read-only\n");
  });
  return server;
}

interface ReadOptions extends Omit<ReadOnlyCacheServerOptions, "log"> {
  readonly upgrades: CacheInfo["upgrades"];
}

/** What any Nix and snix ask for. */
function addReadRoutes(server: FastifyInstance, options: ReadOptions): void {
  const cacheInfo = formatCacheInfo({
    storeDir: options.storeDir,
    wantMassQuery: true,
    priority: SERVE_PRIORITY,
    upgrades: options.upgrades,
  });
  const get = (
    url: string,
    handler: (request: FastifyRequest, reply: FastifyReply) => Promise<void>,
  ) => server.route({ method: ["GET", "HEAD"], url, handler });
  get("/", async (_request, reply) => {
    await reply.type("text/plain").send("castore serve: a binary cache\n");
  });
  get("/nix-cache-info", async (_request, reply) => {
    await reply.type("text/x-nix-cache-info").send(cacheInfo);
  });
  get("/healthz", async (_request, reply) => {
    await reply.type("text/plain").send("ok\n");
  });
  const nars = new SharedNars(options.services);
  get("/nar/snix-castore/:entry", async (request, reply) => {
    await answerNar(nars, request, reply);
  });
  get("/:file", async (request, reply) => await answerTopLevel(options, request, reply));
}

async function answerTopLevel(
  { pathInfos, services }: ReadOptions,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<void> {
  const { file } = request.params as { readonly file: string };
  const asked = parseStoreHashFile(file);
  const pathInfo = asked && (await pathInfos.get(asked.storeHash));
  if (asked === undefined || pathInfo === undefined) return reply.callNotFound();
  if (asked.type === "listing") {
    const listing = (await createNarLayout(pathInfo.node, services)).listing();
    await reply.type("application/json").send(formatNarListing(listing));
    return;
  }
  const narInfo = narInfoOf(pathInfo, formatSnixNarUrl(pathInfo));
  await reply.type("text/x-nix-narinfo").send(formatNarInfo(narInfo));
}

/** A NAR by its root node: as good as proven, since the client names what it wants. */
async function answerNar(
  nars: SharedNars,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<void> {
  const { narsize } = request.query as { readonly narsize?: string };
  if (narsize === undefined) {
    await reply.code(400).type("text/plain").send("400: narsize is missing\n");
    return;
  }
  const asked = parseSnixNarUrl(request.url.slice(1));
  if (asked === undefined) return reply.callNotFound();
  const { node, narSize } = asked;
  const nar = await nars.open(node);
  if (nar.size !== narSize) {
    await reply.code(400).type("text/plain").send(`400: this NAR has ${nar.size} bytes\n`);
    return;
  }
  await replyNar(request, reply, nar, { compress: true });
}
