import {
  AssembledBlobs,
  CastoreError,
  type ChunkFetcher,
  type LocalStore,
  planTree,
} from "@castore/castore";
import { renderNar } from "../nar/nar-render.ts";
import type { NarInfo } from "../nix/nar-info.ts";
import { normalReferences } from "../nix/normal-references.ts";
import { type StoreHash, storePathHash } from "../nix/store-path.ts";
import { type PathInfo, pathInfoOf } from "../path-infos/path-info.ts";
import type { CastoreMetadata } from "./castore-metadata.ts";
import type { NarSource } from "./nar-delivery.ts";
import { PLAIN_FILE_BYTES_MAX } from "./price-list.ts";

export interface CastoreNarSourceOptions {
  /** For the log. */
  readonly name: string;
  readonly narInfo: NarInfo;
  readonly store: LocalStore;
  readonly metadata: CastoreMetadata;
  readonly fetcher: ChunkFetcher;
  /** Paths that are likely to be asked for soon. */
  readonly alongside: () => Iterable<StoreHash>;
  readonly onChunk?: (from: "local" | "remote", size: number) => void;
  /**
   * Called once bytes matched the NAR hash, with the proven path info; its blobs are being stored.
   */
  readonly onProven: (pathInfo: PathInfo, stored: Promise<void>) => void;
  readonly onFailed?: (error: unknown, wrong: boolean) => void;
  /** Bytes of the plain NAR as served, where that is another way. */
  readonly plainSize: () => Promise<number | undefined>;
}

/**
 * The NAR rendered here, from chunks at hand and chunks fetched from a castore server. Rejects
 * UNSUPPORTED, before any chunk is fetched, where the server does not have the path or that would
 * cost more than the plain NAR.
 */
export function createCastoreNarSource(options: CastoreNarSourceOptions): NarSource {
  let finish: (() => void) | undefined;
  return {
    name: options.name,
    async *open(signal) {
      const opened = await openTree(options, signal);
      finish = opened.finish;
      yield* opened.nar;
    },
    proven: () => finish?.(),
    failed: (error, wrong) => options.onFailed?.(error, wrong),
  };
}

interface OpenTree {
  readonly nar: AsyncIterable<Uint8Array>;
  /** The NAR was right: keeps what it is made of. */
  finish(): void;
}

/** Everything is freed when `signal` ends, unless `finish` was called before. */
async function openTree(options: CastoreNarSourceOptions, signal: AbortSignal): Promise<OpenTree> {
  const { narInfo, store } = options;
  const known = await options.metadata.get(storePathHash(narInfo.storePath), options.alongside(), {
    signal,
  });
  if (known === undefined) {
    throw new CastoreError("UNSUPPORTED", `${options.name} does not have ${narInfo.storePath}`);
  }
  const { pathInfo, recipe } = known;
  if (pathInfo.narHash !== narInfo.narHash || pathInfo.narSize !== narInfo.narSize) {
    throw new CastoreError("CORRUPT", `${options.name} has another ${narInfo.storePath}`);
  }
  const tree = await planTree(pathInfo.node, recipe, store, { signal });
  const isSmall = tree.wireBytes <= PLAIN_FILE_BYTES_MAX;
  const plain = isSmall ? undefined : await options.plainSize();
  if (plain !== undefined && tree.wireBytes > plain) {
    const why = `${tree.wireBytes} bytes of chunks are missing, the plain NAR has ${plain}`;
    throw new CastoreError("UNSUPPORTED", `${narInfo.storePath}: ${why}`);
  }
  const chunks = options.fetcher.plan(tree.missing);
  const blobs = new AssembledBlobs({
    tree,
    references: recipe?.references ?? [],
    index: store.chunks,
    chunks,
    near: store.blobsFor(normalReferences(narInfo)),
    ...(options.onChunk === undefined ? {} : { onChunk: options.onChunk }),
  });
  let isFinished = false;
  const close = async () => {
    chunks[Symbol.dispose]();
    await blobs[Symbol.asyncDispose]();
  };
  const closeUnlessFinished = () => {
    if (!isFinished) void close();
  };
  signal.addEventListener("abort", closeUnlessFinished, { once: true });
  if (signal.aborted) closeUnlessFinished();
  return {
    nar: renderNar(pathInfo.node, { directories: store.directories, blobs }, { signal }),
    finish() {
      isFinished = true;
      const stored = blobs.stored().finally(close);
      options.onProven(pathInfoOf(narInfo, pathInfo.node, pathInfo.rootSignatures), stored);
    },
  };
}
