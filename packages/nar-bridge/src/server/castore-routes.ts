import {
  type ByteSource,
  createZstdEncoder,
  type Digest,
  decodeClosureRequest,
  decodeFetchRequest,
  digestOf,
  encodeDirectory,
  encodeDirectoryStream,
  encodeFetchAnswer,
  encodeRecipe,
  isCastoreError,
  type LocalStore,
  messageOf,
  parseDigest,
} from "@castore/castore";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { Log } from "../log.ts";
import { isStoreHash, type StoreDir } from "../nix/store-path.ts";
import { collectClosure } from "../path-infos/closure-source.ts";
import { encodeClosureStream } from "../path-infos/closure-stream.ts";
import { encodeSignedPathInfo } from "../path-infos/path-info-codec.ts";
import type { PathInfoService } from "../path-infos/path-info-service.ts";
import type { RecipeStore } from "../path-infos/recipe-store.ts";
import { type EncodedItem, fetchFrames } from "../substitution/fetch-source.ts";
import { parseRange } from "../upstream/http-range.ts";
import { readRequest } from "../upstream/http-request.ts";
import { HotBytes } from "./hot-bytes.ts";
import { clientSignal, sendBytes } from "./http-reply.ts";
import { OutboardStore } from "./outboard-store.ts";

export const CASTORE_FEATURES = ["blob", "closure", "fetch", "outboard", "summary"] as const;
/** Closure streams that are to be had by GET, and what is in them. */
const CLOSURE_FILES: readonly (readonly [name: string, follow: boolean, summaries: boolean])[] = [
  ["closure", true, false],
  ["summaries", true, true],
  ["summary", false, true],
];
/** Where `castore serve` has castore/1, below the cache's own URL. */
export const CASTORE_BASE = "castore/";
/** With the value `none`, a fetch is answered without compression. */
const ENCODING_HEADER = "castore-encoding";
/** Of chunks in each encoding that were sent lately. */
const KEPT_BYTES_MAX = 32 << 20;
/** Most bytes in the body of a request. */
const REQUEST_BYTES_MAX = 1024 * 1024;

const OBJECT_TYPE = "application/x-castore";
const IMMUTABLE = { "cache-control": "public, max-age=31536000, immutable" };
const MUTABLE = { "cache-control": "public, max-age=3600" };
const DYNAMIC = { "cache-control": "no-store", "x-accel-buffering": "no" };

export interface CastoreRoutesOptions {
  readonly store: LocalStore;
  readonly pathInfos: PathInfoService;
  readonly recipes: RecipeStore;
  readonly storeDir: StoreDir;
  readonly rootKeys: readonly string[];
  readonly log: Log;
}

/** Adds the routes of castore/1 (docs/protocol.md) below CASTORE_BASE. */
export function addCastoreRoutes(server: FastifyInstance, options: CastoreRoutesOptions): void {
  const { store, pathInfos, recipes, storeDir, rootKeys, log } = options;
  const kept = { zstd: keptItems(), none: keptItems() };
  const info = JSON.stringify({ version: 1, storeDir, features: CASTORE_FEATURES, rootKeys });
  const get = (
    path: string,
    answer: (request: FastifyRequest, reply: FastifyReply) => Promise<void>,
  ) => server.route({ method: ["GET", "HEAD"], url: `/${CASTORE_BASE}${path}`, handler: answer });

  get("info", async (_request, reply) => {
    await reply.type("application/json").header("cache-control", "max-age=300").send(info);
  });
  get("pathinfo/:storeHash", async (request, reply) => {
    const storeHash = parameter(request, "storeHash");
    const pathInfo = isStoreHash(storeHash) ? await pathInfos.get(storeHash) : undefined;
    if (pathInfo === undefined) return reply.callNotFound();
    // Its root's digest alone would not tell for which references.
    recipes.makeSoon(pathInfo);
    await sendWhole(request, reply, encodeSignedPathInfo(pathInfo), MUTABLE);
  });
  for (const [name, follow, summaries] of CLOSURE_FILES) {
    get(`${name}/:storeHash`, async (request, reply) => {
      const storeHash = parameter(request, "storeHash");
      const isKnown = isStoreHash(storeHash) && (await pathInfos.get(storeHash)) !== undefined;
      if (!isKnown) return reply.callNotFound();
      const query = { wanted: [storeHash], follow, known: [], summaries };
      const records = collectClosure(query, options, { signal: clientSignal(reply) });
      await sendZstd(request, reply, encodeClosureStream(records), MUTABLE);
    });
  }
  get("dirs/b3/:prefix/:digest", async (request, reply) => {
    const digest = digestParameter(request);
    if (digest === undefined || (await store.directories.get(digest)) === undefined) {
      return reply.callNotFound();
    }
    const directories = encodeDirectoryStream(encodedClosure(store, digest));
    await sendZstd(request, reply, directories, IMMUTABLE);
  });
  get("recipe/:digest", async (request, reply) => {
    const digest = digestParameter(request);
    const recipe = digest === undefined ? undefined : await recipes.get(digest);
    if (recipe === undefined) return reply.callNotFound();
    await sendZstd(request, reply, [encodeRecipe(recipe)], IMMUTABLE);
  });
  get("chunks/b3/:prefix/:digest", async (request, reply) => {
    const digest = digestParameter(request);
    const chunk = digest === undefined ? undefined : await store.chunks.get({ digest });
    if (chunk === undefined) return reply.callNotFound();
    await sendZstd(request, reply, [chunk], IMMUTABLE);
  });
  get("blob/:digest", async (request, reply) => await sendBlob(store, request, reply));
  const outboards = new OutboardStore(store);
  get("outboard/:digest", async (request, reply) => {
    const digest = digestParameter(request);
    const outboard = digest === undefined ? undefined : await outboards.get(digest);
    if (outboard === undefined) return reply.callNotFound();
    await sendWhole(request, reply, outboard, IMMUTABLE);
  });
  server.post(`/${CASTORE_BASE}closure`, async (request, reply) => {
    const query = decodeClosureRequest(await readRequest(request, REQUEST_BYTES_MAX));
    const records = collectClosure(query, options, { signal: clientSignal(reply) });
    await sendZstd(request, reply, encodeClosureStream(records), DYNAMIC);
  });
  server.post(`/${CASTORE_BASE}fetch`, async (request, reply) => {
    const query = decodeFetchRequest(await readRequest(request, REQUEST_BYTES_MAX));
    const encoding = request.headers[ENCODING_HEADER] === "none" ? "none" : "zstd";
    const frames = encodeFetchAnswer(
      fetchFrames(query, store, {
        signal: clientSignal(reply),
        encoding,
        kept: kept[encoding],
        onFailed: (error) => log(`fetch: ${messageOf(error)}`),
      }),
    );
    await sendBytes(reply, 200, { "content-type": OBJECT_TYPE, ...DYNAMIC }, frames);
  });
}

function keptItems(): HotBytes<EncodedItem> {
  const sizeOf = ({ frames }: EncodedItem) =>
    frames.reduce((sum, { bytes }) => sum + bytes.byteLength, 0);
  return new HotBytes(sizeOf, KEPT_BYTES_MAX);
}

function parameter(request: FastifyRequest, name: string): string {
  const value = (request.params as Readonly<Record<string, string>>)[name];
  return value ?? "";
}

/** The digest in the URL; undefined where it is malformed or under the wrong prefix. */
function digestParameter(request: FastifyRequest): Digest | undefined {
  const text = parameter(request, "digest");
  const { prefix } = request.params as { readonly prefix?: string };
  if (prefix !== undefined && prefix !== text.slice(0, 4)) return undefined;
  try {
    return parseDigest(text);
  } catch (error) {
    if (isCastoreError(error, "INVALID")) return undefined;
    throw error;
  }
}

async function* encodedClosure(
  store: LocalStore,
  root: Digest,
): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const directory of store.directories.getClosure(root)) {
    yield encodeDirectory(directory);
  }
}

async function sendWhole(
  request: FastifyRequest,
  reply: FastifyReply,
  body: Uint8Array,
  headers: Readonly<Record<string, string>>,
): Promise<void> {
  void reply.headers({ ...headers, "content-type": OBJECT_TYPE, etag: `"${digestOf(body)}"` });
  if (request.method === "HEAD") {
    await reply.header("content-length", body.byteLength).send();
    return;
  }
  await reply.send(Buffer.from(body.buffer, body.byteOffset, body.byteLength));
}

async function sendZstd(
  request: FastifyRequest,
  reply: FastifyReply,
  body: ByteSource,
  headers: Readonly<Record<string, string>>,
): Promise<void> {
  const all = { ...headers, "content-type": OBJECT_TYPE };
  if (request.method === "HEAD") {
    await reply.headers(all).send();
    return;
  }
  await sendBytes(reply, 200, all, createZstdEncoder()(body));
}

async function sendBlob(
  store: LocalStore,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<void> {
  const digest = digestParameter(request);
  const reader = digest === undefined ? undefined : await store.blobs.open(digest);
  if (reader === undefined) return reply.callNotFound();
  try {
    const span = parseRange(request.headers.range, reader.size);
    const headers: Record<string, string | number> = {
      ...IMMUTABLE,
      "content-type": "application/octet-stream",
      "accept-ranges": "bytes",
      etag: `"${digest}"`,
    };
    if (span === "unsatisfiable") {
      await reply.code(416).header("content-range", `bytes */${reader.size}`).send();
      return;
    }
    const { start, end } = span ?? { start: 0, end: reader.size };
    headers["content-length"] = end - start;
    if (span) headers["content-range"] = `bytes ${start}-${end - 1}/${reader.size}`;
    const status = span === undefined ? 200 : 206;
    if (request.method === "HEAD") await reply.code(status).headers(headers).send();
    else await sendBytes(reply, status, headers, reader.stream(start, end));
  } finally {
    await reader.close();
  }
}
