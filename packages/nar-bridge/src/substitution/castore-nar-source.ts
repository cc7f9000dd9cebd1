import { AssembledBlobs, CastoreError, type LocalStore, planTree } from "@castore/castore";
import { renderNar } from "../nar/nar-render.ts";
import type { NarInfo } from "../nix/nar-info.ts";
import { normalReferences } from "../nix/normal-references.ts";
import { type PathInfo, pathInfoOf } from "../path-infos/path-info.ts";
import type { ContentsOptions, ContentsServer, PathContents } from "./contents-server.ts";
import type { NarSource } from "./nar-delivery.ts";
import type { PathCostMeter } from "./path-cost.ts";
import { type NamedOffer, type Offer, priceList } from "./price-list.ts";

export interface CastoreNarSourceOptions {
  readonly server: ContentsServer;
  readonly narInfo: NarInfo;
  readonly store: LocalStore;
  readonly soon: Pick<ContentsOptions, "closure" | "others" | "onDescribed" | "pays">;
  /** The plain NAR, where that is another way; `wireBytes` would be fetched from the server. */
  readonly plain: (wireBytes: number) => Promise<NamedOffer | undefined>;
  readonly cost: PathCostMeter;
  /** Called once the chunks that are missing are being fetched. */
  readonly onPlanned?: () => void;
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

/** What the server says of the path, where its summary does not tell already that it costs more. */
async function describeTree(
  options: CastoreNarSourceOptions,
  signal: AbortSignal,
): Promise<PathContents> {
  const { narInfo, server, cost } = options;
  const question = { ...options.soon, signal, cost: cost.metadata };
  let contents = await server.describe(narInfo, question);
  if (contents !== undefined && "estimate" in contents) {
    takeUnlessPlain(options, contents.estimate, await options.plain(contents.estimate.bytes));
    contents = await server.describe(narInfo, { ...question, pays: undefined });
  }
  if (contents === undefined || "estimate" in contents) {
    throw new CastoreError("UNSUPPORTED", `${server.name} does not have ${narInfo.storePath}`);
  }
  return contents;
}

/** Notes the prices. Rejects UNSUPPORTED where the plain NAR has the better one. */
function takeUnlessPlain(
  { narInfo, server, cost }: CastoreNarSourceOptions,
  offer: Offer,
  plain: NamedOffer | undefined,
): void {
  const offers = [{ ...offer, server: server.name }];
  const prices = priceList(plain === undefined ? offers : [...offers, plain]);
  cost.priced(prices);
  if (prices.find(({ verdict }) => verdict === "taken")?.kind === "nar") {
    const why = `it costs ${offer.bytes} bytes, the plain NAR ${plain?.bytes}`;
    throw new CastoreError("UNSUPPORTED", `${narInfo.storePath}: ${why}`);
  }
}

/** Everything is freed when `signal` ends, unless `finish` was called before. */
async function openTree(options: CastoreNarSourceOptions, signal: AbortSignal): Promise<OpenTree> {
  const { narInfo, store, server, cost } = options;
  const { node, recipe, rootSignatures } = await describeTree(options, signal);
  const tree = await planTree(node, recipe, store, { signal });
  const plain = await options.plain(tree.wireBytes);
  takeUnlessPlain(options, await server.offer(tree), plain);
  const chunks = server.fetcher.plan(tree.missing, { cost: cost.contents });
  options.onPlanned?.();
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
