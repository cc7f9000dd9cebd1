import { AssembledBlobs, CastoreError, type LocalStore, planTree } from "@castore/castore";
import { renderNar } from "../nar/nar-render.ts";
import type { NarInfo } from "../nix/nar-info.ts";
import { normalReferences } from "../nix/normal-references.ts";
import { type PathInfo, pathInfoOf } from "../path-infos/path-info.ts";
import type { ContentsOptions, ContentsServer } from "./contents-server.ts";
import type { NarSource } from "./nar-delivery.ts";
import type { PathCostMeter } from "./path-cost.ts";
import { type NamedOffer, priceList } from "./price-list.ts";

export interface CastoreNarSourceOptions {
  readonly server: ContentsServer;
  readonly narInfo: NarInfo;
  readonly store: LocalStore;
  readonly soon: Pick<ContentsOptions, "closure" | "others" | "onDescribed">;
  /** The plain NAR, where that is another way; `wireBytes` would be fetched from the server. */
  readonly plain: (wireBytes: number) => Promise<NamedOffer | undefined>;
  readonly cost: PathCostMeter;
  readonly onChunk?: (from: "local" | "remote", size: number) => void;
  /**
   * Called once bytes matched the NAR hash, with the proven path info; its blobs are being stored.
   */
  readonly onProven: (pathInfo: PathInfo, stored: Promise<void>) => void;
  readonly onFailed?: (error: unknown, wrong: boolean) => void;
}

/**
 * The NAR rendered here, from chunks at hand and chunks fetched from a server. Rejects UNSUPPORTED,
 * before any chunk is fetched, where the server does not have the path or the plain NAR has the
 * better price.
 */
export function createCastoreNarSource(options: CastoreNarSourceOptions): NarSource {
  let finish: (() => void) | undefined;
  return {
    name: options.server.name,
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
  const { narInfo, store, server, cost } = options;
  const question = { ...options.soon, signal, cost: cost.metadata };
  const contents = await server.describe(narInfo, question);
  if (contents === undefined) {
    throw new CastoreError("UNSUPPORTED", `${server.name} does not have ${narInfo.storePath}`);
  }
  const { node, recipe, rootSignatures } = contents;
  const tree = await planTree(node, recipe, store, { signal });
  const plain = await options.plain(tree.wireBytes);
  const offers = [{ ...(await server.offer(tree)), server: server.name }];
  const prices = priceList(plain === undefined ? offers : [...offers, plain]);
  cost.priced(prices);
  if (prices.find(({ verdict }) => verdict === "taken")?.kind === "nar") {
    const why = `${tree.wireBytes} bytes are missing, the plain NAR has ${plain?.bytes}`;
    throw new CastoreError("UNSUPPORTED", `${narInfo.storePath}: ${why}`);
  }
  const chunks = server.fetcher.plan(tree.missing, { cost: cost.contents });
  const blobs = new AssembledBlobs({
    tree,
    references: recipe?.references ?? [],
    index: store.chunks,
    chunks,
    near: store.blobsFor(normalReferences(narInfo)),
    onChunk(from, size) {
      cost.chunkUsed(from, size);
      options.onChunk?.(from, size);
    },
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
    nar: renderNar(node, { directories: store.directories, blobs }, { signal }),
    finish() {
      isFinished = true;
      const stored = blobs.stored().finally(close);
      options.onProven(pathInfoOf(narInfo, node, rootSignatures), stored);
    },
  };
}
