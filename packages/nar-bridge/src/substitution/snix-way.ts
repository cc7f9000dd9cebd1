import {
  type BlobRecipe,
  type BlobService,
  type CallOptions,
  CastoreError,
  CHUNK_SIZES,
  ChunkFetcher,
  type ChunkMeta,
  type ChunkTransport,
  createCachedDirectoryService,
  createGrpcBlobService,
  createGrpcDirectoryService,
  type DirectoryService,
  type FetchedChunk,
  type FileNode,
  type GrpcChannel,
  inParallel,
  isCastoreError,
  type LocalStore,
  type Node,
  openGrpcChannel,
  type TransferCost,
  type TreePlan,
  walkFiles,
} from "@castore/castore";
import { parseSnixNarUrl } from "../nix/cache-url.ts";
import type { NarInfo } from "../nix/nar-info.ts";
import type { LinkSpeed } from "../upstream/link-meter.ts";
import type { CostOptions } from "./castore-endpoint.ts";
import type { ContentsServer, PathContents } from "./contents-server.ts";
import type { Offer } from "./price-list.ts";
import { ServerRest, type ServerRestOptions } from "./server-rest.ts";

/** Calls under way at once: they share one connection. */
const CALLS_PARALLEL = 16;
/** A blob that the server does not divide is held in memory whole, up to this. */
const WHOLE_BLOB_BYTES_MAX = 8 * 1024 * 1024;
/** Longest that a server may be silent. */
const SILENCE_MS_MAX = 15_000;
/** Longest wait for a connection, unless told. */
const CONNECT_MS = 5_000;

export interface SnixWayOptions extends ServerRestOptions {
  /** Whose root speaks gRPC: http or https. */
  readonly origin: URL;
  readonly store: Pick<LocalStore, "blobs" | "directories">;
  /** Certificate authorities in PEM, besides the system's. */
  readonly caPath: string | undefined;
  readonly connectMs?: number | undefined;
  /** What was measured of the way to the origin. */
  readonly link: () => LinkSpeed;
  /** Told of what each part of an answer took. */
  readonly onTransfer: (cost: TransferCost) => void;
}

/**
 * A cache of snix's: its narinfos name NARs by root node, and directories and blobs come over gRPC
 * from the same origin.
 */
export class SnixWay implements ContentsServer {
  readonly name: string;
  readonly way = "grpc";
  readonly tellsOfMany = false;
  readonly fetcher: ChunkFetcher;
  readonly #options: SnixWayOptions;
  readonly #rest: ServerRest;
  #services: Promise<SnixServices> | undefined;
  #isConnected = false;

  constructor(options: SnixWayOptions) {
    this.name = `gRPC at ${options.origin.origin}`;
    this.#options = options;
    this.#rest = new ServerRest(options);
    this.fetcher = new ChunkFetcher(this.#transport());
  }

  async isUsable(options: CostOptions): Promise<boolean> {
    if (this.#rest.isResting) return false;
    if (this.#isConnected) return true;
    try {
      const { channel } = await this.#open();
      await connectWithin(channel, this.#options.connectMs ?? CONNECT_MS);
      this.#isConnected = true;
      return true;
    } catch (error) {
      this.#close();
      options.signal?.throwIfAborted();
      // Most that speak HTTP do not speak gRPC, and will not soon.
      this.#rest.cannot(error);
      return false;
    }
  }

  isDescribed(): boolean {
    return false;
  }

  async describe(narInfo: NarInfo, options: CostOptions = {}): Promise<PathContents | undefined> {
    const named = parseSnixNarUrl(narInfo.url);
    if (named === undefined) return undefined;
    if (named.narSize !== narInfo.narSize) {
      throw new CastoreError("CORRUPT", `${this.name} has another ${narInfo.storePath}`);
    }
    const { node } = named;
    if (!(await this.#bringDirectories(node, options))) return undefined;
    const { directories } = this.#options.store;
    const files = walkFiles(node, (digest) => directories.get(digest, options), options);
    const blobs: BlobRecipe[] = [];
    const divide = (file: FileNode, signal: AbortSignal) =>
      this.#divided(file, { ...options, signal });
    for await (const blob of inParallel(files, CALLS_PARALLEL, divide, options)) {
      if (blob !== undefined) blobs.push(blob);
    }
    return { node, recipe: { references: [], blobs, plainWireSizes: [] }, rootSignatures: [] };
  }

  async offer(tree: TreePlan): Promise<Offer> {
    const isWhole = [...tree.blobs.values()].every(({ chunks }) => chunks.length === 1);
    return {
      kind: isWhole ? "blobs" : "chunks",
      bytes: tree.missingBytes,
      requests: tree.missingCount,
      parallel: CALLS_PARALLEL,
      link: this.#options.link(),
    };
  }

  worked(): void {
    this.#rest.worked();
  }

  failed(error: unknown): void {
    this.#isConnected = false;
    this.#rest.failed(error);
  }

  [Symbol.dispose](): void {
    this.fetcher[Symbol.dispose]();
    this.#close();
  }

  /** Whether the directories below `node` are in the store now. */
  async #bringDirectories(node: Node, { signal, cost }: CostOptions): Promise<boolean> {
    if (node.type !== "directory") return true;
    const near = this.#options.store.directories;
    if ((await near.get(node.digest, { signal })) !== undefined) return true;
    if (cost !== undefined) cost.requests++;
    const { directories: far } = await this.#open();
    const directories = createCachedDirectoryService(near, far);
    let isThere = false;
    try {
      for await (const _entry of directories.getClosure(node.digest, { signal })) isThere = true;
    } catch (cause) {
      // Of a path, UNSUPPORTED is no fault; of all of gRPC it is.
      if (!isCastoreError(cause, "UNSUPPORTED")) throw cause;
      throw new CastoreError("UNAVAILABLE", `${this.name}: ${cause.message}`, { cause });
    }
    return isThere;
  }

  /** The chunks of a blob that may have several; undefined for one that is its own chunk. */
  async #divided(file: FileNode, { signal, cost }: CostOptions): Promise<BlobRecipe | undefined> {
    const { digest, size } = file;
    const whole = { digest, size, wireSize: undefined };
    const recipe = (chunks: readonly ChunkMeta[]): BlobRecipe => ({
      ...{ digest, size, occurrences: [] },
      chunks: chunks.map((chunk) => ({ ...chunk, wireSize: undefined })),
    });
    if (size < CHUNK_SIZES.min) return undefined;
    if (await this.#options.store.blobs.has(digest, { signal })) return recipe([whole]);
    if (cost !== undefined) cost.requests++;
    const { blobs } = await this.#open();
    const chunks = await blobs.chunks(digest, { signal });
    if (chunks === undefined) {
      throw new CastoreError("INCOMPLETE", `${this.name}: blob ${digest} is missing`);
    }
    if (chunks.length > 0) {
      const told = chunks.reduce((sum, chunk) => sum + chunk.size, 0);
      if (told === size) return recipe(chunks);
      const message = `${this.name}: blob ${digest} of ${size} bytes has chunks of ${told}`;
      throw new CastoreError("CORRUPT", message);
    }
    if (size <= WHOLE_BLOB_BYTES_MAX) return recipe([whole]);
    const message = `${this.name}: does not divide blob ${digest} of ${size} bytes`;
    throw new CastoreError("UNSUPPORTED", message);
  }

  #transport(): ChunkTransport {
    const fetch = async (chunk: ChunkMeta, signal: AbortSignal): Promise<FetchedChunk> => {
      const { blobs } = await this.#open();
      const bytes = await readWhole(blobs, chunk, { signal });
      const cost = { requests: 1, bytes: bytes?.byteLength ?? 0 };
      this.#options.onTransfer(cost);
      return { bytes, cost };
    };
    return {
      fetchChunks: (chunks, options) => inParallel(chunks, CALLS_PARALLEL, fetch, options),
    };
  }

  async #open(): Promise<SnixServices> {
    this.#services ??= openServices(this.#options);
    return await this.#services;
  }

  #close(): void {
    void this.#services?.then(({ channel }) => channel.close()).catch(() => {});
    this.#services = undefined;
  }
}

interface SnixServices {
  readonly channel: GrpcChannel;
  readonly blobs: BlobService;
  readonly directories: DirectoryService;
}

async function openServices(options: SnixWayOptions): Promise<SnixServices> {
  // Alone: a new channel tries to connect at once, however often others failed.
  const settings = { timeoutMs: SILENCE_MS_MAX, isAlone: true };
  const channel = await openGrpcChannel(addressOf(options), settings);
  const blobs = createGrpcBlobService(channel);
  return { channel, blobs, directories: createGrpcDirectoryService(channel) };
}

function addressOf({ origin, caPath }: SnixWayOptions): Parameters<typeof openGrpcChannel>[0] {
  const isTls = origin.protocol === "https:";
  const port = origin.port === "" ? (isTls ? 443 : 80) : origin.port;
  return {
    target: `grpc+${origin.origin}`,
    dial: `dns:${origin.hostname}:${port}`,
    tls: isTls ? { caPath } : undefined,
    waitConnect: false,
  };
}

/** A blob that fits into memory; more bytes than it should have are one too many. */
async function readWhole(
  blobs: BlobService,
  { digest, size }: ChunkMeta,
  options: CallOptions,
): Promise<Uint8Array | undefined> {
  await using reader = await blobs.open(digest, options);
  if (reader === undefined) return undefined;
  const pieces: Uint8Array[] = [];
  for await (const piece of reader.stream(0, size + 1, options)) pieces.push(piece);
  return Buffer.concat(pieces);
}

async function connectWithin(channel: GrpcChannel, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    const message = `${channel.target}: no connection in ${ms / 1000} s`;
    timer = setTimeout(() => reject(new CastoreError("UNAVAILABLE", message)), ms);
  });
  try {
    await Promise.race([channel.connect(), late]);
  } finally {
    clearTimeout(timer);
  }
}
