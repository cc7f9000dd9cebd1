import {
  type CallOptions,
  CastoreError,
  type ChunkMeta,
  type ChunkTransport,
  type ClosureRequest,
  createTransferCost,
  createZstdDecoder,
  type Digest,
  decodeFetchAnswer,
  encodeClosureRequest,
  encodeFetchRequest,
  FETCH_END_BYTES,
  FETCH_FRAME_HEADER_BYTES,
  type FetchedChunk,
  fetchFrameContents,
  inParallel,
  objectKey,
  outboardBytes,
  type TransferCost,
  untilAborted,
  zstdDecompress,
} from "@castore/castore";
import type { StoreDir, StoreHash } from "../nix/store-path.ts";
import { type ClosureRecord, decodeClosureStream } from "../path-infos/closure-stream.ts";
import type { PathInfo } from "../path-infos/path-info.ts";
import type { UrlPolicy } from "../upstream/admission.ts";
import type { HttpClient, HttpRequest } from "../upstream/http-client.ts";
import { type HttpResponse, readBody } from "../upstream/http-response.ts";
import type { LinkSpeed } from "../upstream/link-meter.ts";
import { LOOKUP_TIMEOUT_MS } from "../upstream/upstream.ts";
import { contentsFiles, type OpenFile, staticClosure } from "./static-closure.ts";

/** Chunks fetched one by one at once, where the server has no `fetch`. */
export const SINGLE_CHUNKS_PARALLEL = 8;
const INFO_BYTES_MAX = 64 * 1024;
const INFO_TTL_MS = 300_000;
const ZSTD_OVERHEAD_BYTES = 1024;

/** closure, summaries: of a path and all it refers to; summary: of the path alone. */
export type ClosureFile = "closure" | "summaries" | "summary";

/** What a castore/1 server says of itself (docs/protocol.md, section 3). */
export interface EndpointInfo {
  readonly features: ReadonlySet<string>;
  readonly rootKeys: readonly string[];
}

/** A castore/1 server, over HTTP. Trusted in nothing: what it gives is verified by who uses it. */
export interface CastoreEndpoint extends ChunkTransport {
  readonly base: URL;
  /** As `info` said last; none before it did. */
  readonly features: ReadonlySet<string>;
  /** Rejects UNSUPPORTED where the server speaks another version or serves another StoreDir. */
  info(options?: CostOptions): Promise<EndpointInfo>;
  /**
   * Path infos, directories and recipes of the paths asked for, as docs/protocol.md, section 4,
   * orders them. One request where the server has the feature, else as staticClosure says.
   */
  closure(query: ClosureRequest, options?: CostOptions): AsyncIterable<ClosureRecord>;
  /** A closure stream that a static server has of the path; undefined where it has none. */
  closureFile(
    kind: ClosureFile,
    storeHash: StoreHash,
    options?: CostOptions,
  ): Promise<AsyncIterable<ClosureRecord> | undefined>;
  /** The files of a static server with the directories and the recipe of the path. */
  contentsFiles(pathInfo: PathInfo, options?: CostOptions): AsyncIterable<ClosureRecord>;
  /** What was measured of the way to it. */
  link(): LinkSpeed;
  /** The outboard of a blob of `size` bytes; undefined where the server has none. */
  outboard(digest: Digest, size: number, options?: CallOptions): Promise<Uint8Array | undefined>;
}

export interface CostOptions extends CallOptions {
  /** Counts what it takes. */
  readonly cost?: TransferCost | undefined;
}

export interface CastoreEndpointOptions {
  readonly http: HttpClient;
  /** Admitted; ends in a slash. */
  readonly base: URL;
  readonly policy: UrlPolicy;
  readonly storeDir: StoreDir;
}

export function createCastoreEndpoint(options: CastoreEndpointOptions): CastoreEndpoint {
  return new HttpCastoreEndpoint(options);
}

class HttpCastoreEndpoint implements CastoreEndpoint {
  readonly base: URL;
  readonly #options: CastoreEndpointOptions;
  #asking: Promise<EndpointInfo> | undefined;
  #info: { readonly value: EndpointInfo; readonly expires: number } | undefined;

  constructor(options: CastoreEndpointOptions) {
    this.base = options.base;
    this.#options = options;
  }

  get features(): ReadonlySet<string> {
    return this.#info?.value.features ?? new Set();
  }

  async info(options: CostOptions = {}): Promise<EndpointInfo> {
    if (this.#info !== undefined && this.#info.expires > performance.now()) return this.#info.value;
    // Not with the caller's signal: others may wait for the same answer. Its time is bounded.
    this.#asking ??= this.#readInfo(options.cost).finally(() => {
      this.#asking = undefined;
    });
    return await untilAborted(this.#asking, options.signal);
  }

  async #readInfo(cost: TransferCost | undefined): Promise<EndpointInfo> {
    const response = await this.#send("info", { headersTimeoutMs: LOOKUP_TIMEOUT_MS, cost });
    const body = await readBody(response, INFO_BYTES_MAX);
    const value = parseInfo(Buffer.from(body).toString("utf8"), this.base, this.#options.storeDir);
    this.#info = { value, expires: performance.now() + INFO_TTL_MS };
    return value;
  }

  async *closure(query: ClosureRequest, options: CostOptions = {}): AsyncIterable<ClosureRecord> {
    const { features } = await this.info(options);
    if (features.has("closure")) {
      const body = encodeClosureRequest(query);
      const response = await this.#send("closure", { method: "POST", body, ...options });
      yield* decodeClosureStream(createZstdDecoder()(response.body));
      return;
    }
    yield* staticClosure(this.#opener(options), query, options);
  }

  #opener(options: CostOptions): OpenFile {
    return async (path, call) => (await this.#sendMaybe(path, { ...options, ...call }))?.body;
  }

  async closureFile(
    kind: ClosureFile,
    storeHash: StoreHash,
    options: CostOptions = {},
  ): Promise<AsyncIterable<ClosureRecord> | undefined> {
    const response = await this.#sendMaybe(`${kind}/${storeHash}`, options);
    return response && decodeClosureStream(createZstdDecoder()(response.body));
  }

  contentsFiles(pathInfo: PathInfo, options: CostOptions = {}): AsyncIterable<ClosureRecord> {
    return contentsFiles(this.#opener(options), pathInfo, options);
  }

  link(): LinkSpeed {
    return this.#options.http.link(this.base);
  }

  async *fetchChunks(
    chunks: readonly ChunkMeta[],
    options: CallOptions,
  ): AsyncIterable<FetchedChunk> {
    const cost = createTransferCost();
    const { features } = await this.info({ ...options, cost });
    if (!features.has("fetch")) {
      const fetch = (chunk: ChunkMeta, signal: AbortSignal) => this.#fetchChunk(chunk, signal);
      yield* inParallel(chunks, SINGLE_CHUNKS_PARALLEL, fetch, options);
      return;
    }
    const body = encodeFetchRequest({ chunks: chunks.map(({ digest }) => digest), ranges: [] });
    const post = { method: "POST", body, lane: "transfer" } as const;
    const response = await this.#send("fetch", { ...post, ...options });
    const parts: Uint8Array[] = [];
    let { requests, bytes } = cost;
    requests++;
    bytes += FETCH_END_BYTES;
    for await (const frame of decodeFetchAnswer(response.body, chunks.length)) {
      const { status, index } = frame;
      if (status === "leftOut") return;
      bytes += FETCH_FRAME_HEADER_BYTES + frame.bytes.byteLength;
      if (status === "done" || status === "more") parts.push(fetchFrameContents(frame));
      if (status === "more") continue;
      if (status === "failed") {
        throw new CastoreError("UNAVAILABLE", `chunk ${chunks[index]?.digest}: not readable`);
      }
      const [first] = parts;
      const whole = parts.length === 1 ? first : Buffer.concat(parts);
      yield { bytes: status === "done" ? whole : undefined, cost: { requests, bytes } };
      parts.length = 0;
      requests = 0;
      bytes = 0;
    }
  }

  async outboard(
    digest: Digest,
    size: number,
    options: CallOptions = {},
  ): Promise<Uint8Array | undefined> {
    const { features } = await this.info(options);
    if (!features.has("outboard")) return undefined;
    const response = await this.#sendMaybe(`outboard/${digest}`, { ...options });
    return response && (await readBody(response, outboardBytes(size)));
  }

  async #fetchChunk({ digest, size }: ChunkMeta, signal: AbortSignal): Promise<FetchedChunk> {
    const cost = createTransferCost();
    const path = objectKey("chunks", digest);
    const response = await this.#sendMaybe(path, { signal, lane: "transfer", cost });
    if (response === undefined) return { bytes: undefined, cost };
    const compressed = await readBody(response, size + (size >> 4) + ZSTD_OVERHEAD_BYTES);
    return { bytes: zstdDecompress(compressed, size), cost };
  }

  async #send(path: string, request: Omit<HttpRequest, "policy">): Promise<HttpResponse> {
    const response = await this.#sendMaybe(path, request);
    if (response !== undefined) return response;
    throw new CastoreError("INCOMPLETE", `${this.base.href}${path}: 404`);
  }

  /** The answer if it is 200, undefined if it is 404. */
  async #sendMaybe(
    path: string,
    request: Omit<HttpRequest, "policy">,
  ): Promise<HttpResponse | undefined> {
    const url = new URL(path, this.base);
    const { http, policy } = this.#options;
    const response = await http.request(url, { ...request, policy });
    if (response.status === 200) return response;
    response.discard();
    if (response.status === 404) return undefined;
    throw new CastoreError("UNAVAILABLE", `${url.href}: status ${response.status}`);
  }
}

function parseInfo(text: string, base: URL, storeDir: StoreDir): EndpointInfo {
  const fault = (what: string) => new CastoreError("UNSUPPORTED", `${base.href}info: ${what}`);
  let info: unknown;
  try {
    info = JSON.parse(text);
  } catch (cause) {
    throw new CastoreError("UNSUPPORTED", `${base.href}info: not JSON`, { cause });
  }
  if (typeof info !== "object" || info === null) throw fault("not an object");
  const { version, features, rootKeys, ...rest } = info as Readonly<Record<string, unknown>>;
  if (version !== 1) throw fault(`version ${JSON.stringify(version)}, not 1`);
  if (rest.storeDir !== storeDir) throw fault(`its StoreDir is ${JSON.stringify(rest.storeDir)}`);
  return { features: new Set(strings(features)), rootKeys: strings(rootKeys) };
}

function strings(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((item) => typeof item === "string") : [];
}
