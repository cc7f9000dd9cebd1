import { setImmediate } from "node:timers/promises";
import { CastoreError, type LocalStore, type Node } from "@castore/castore";
import { decompress, parseCompression } from "../compression/compression.ts";
import { createNarIngest, ingestNar } from "../nar/nar-ingest.ts";
import type { NarInfo } from "../nix/nar-info.ts";
import { normalReferences } from "../nix/normal-references.ts";
import { type PathInfo, pathInfoOf } from "../path-infos/path-info.ts";
import type { FoundNarInfo } from "../upstream/upstream-set.ts";
import type { NarSource } from "./nar-delivery.ts";
import type { NamedOffer } from "./price-list.ts";

/** Nix asks for ten NARs at once: ten of these stay well below what a bridge may take. */
const HELD_BYTES_MAX = 4 * 1024 * 1024;

export interface PlainNarSourceOptions {
  /** For the log. */
  readonly name: string;
  readonly narInfo: NarInfo;
  readonly store: LocalStore;
  /** A NAR of at most so many bytes may be held here until it is stored. */
  readonly waitingBytesMax: number;
  /** Resolves when such a one should be stored. */
  readonly beforeStoring: () => Promise<void>;
  /** The NAR as served, compressed as the narinfo says. */
  readonly download: (signal: AbortSignal) => AsyncIterable<Uint8Array>;
  /**
   * Called once bytes matched the NAR hash, with what they prove; it is being stored. `pieces` are
   * all of it, where it is held until then.
   */
  readonly onProven: (proven: {
    readonly stored: Promise<PathInfo>;
    readonly pieces: readonly Uint8Array[] | undefined;
  }) => void;
  readonly onFailed?: (error: unknown, wrong: boolean) => void;
  /** The NAR passes, but cannot be kept: disk full, say. */
  readonly onNotKept: (error: unknown) => void;
}

/**
 * The NAR as an upstream serves it, decompressed. One that may wait here is ingested once it is
 * proven, as 5,000 small files take longer to store than to send; others are while they pass.
 */
export function createPlainNarSource(options: PlainNarSourceOptions): NarSource {
  let passed: PassedNar | undefined;
  return {
    name: options.name,
    async *open(signal) {
      const { narInfo, waitingBytesMax } = options;
      const waits = narInfo.narSize <= waitingBytesMax;
      const nar = decompressed(options, signal);
      passed = yield* waits ? passBefore(nar, options) : passWhile(nar, options, signal);
    },
    proven() {
      const { narInfo, onProven } = options;
      if (passed === undefined) return;
      const stored = passed.keep().then((node) => pathInfoOf(narInfo, node));
      onProven({ stored, pieces: passed.pieces });
    },
    failed: (error, wrong) => options.onFailed?.(error, wrong),
  };
}

function decompressed(
  { narInfo, download }: PlainNarSourceOptions,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void, undefined> {
  const compression = parseCompression(narInfo.compression);
  if (compression === undefined) {
    const what = `${narInfo.storePath}: compression ${narInfo.compression} is not known`;
    throw new CastoreError("UNSUPPORTED", what);
  }
  return decompress(compression, download(signal), { signal, size: narInfo.narSize });
}

interface PassedNar {
  /** Stores it, or waits for that. */
  keep(): Promise<Node>;
  readonly pieces: readonly Uint8Array[] | undefined;
}

type Passing = AsyncGenerator<Uint8Array, PassedNar | undefined, undefined>;

/** Passes all of `nar`, and keeps it in memory until it is stored. */
async function* passBefore(
  nar: AsyncIterable<Uint8Array>,
  { narInfo, store, beforeStoring }: PlainNarSourceOptions,
): Passing {
  const pieces: Uint8Array[] = [];
  for await (const piece of nar) {
    pieces.push(piece);
    yield piece;
  }
  const { services, limits } = ingestInto(store, narInfo);
  return {
    pieces,
    async keep() {
      await beforeStoring();
      return (await ingestNar(oneByOne(pieces), services, limits)).node;
    },
  };
}

/** The client's bytes go first. */
async function* oneByOne(pieces: Iterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  for (const piece of pieces) {
    await setImmediate();
    yield piece;
  }
}

/** Stores `nar` while it passes, no faster than that. */
async function* passWhile(
  nar: AsyncIterable<Uint8Array>,
  { narInfo, store, onNotKept }: PlainNarSourceOptions,
  signal: AbortSignal,
): Passing {
  const { services, limits } = ingestInto(store, narInfo);
  const ingest = createNarIngest(services, limits);
  let isKept = true;
  let isWhole = false;
  const stop = () => {
    // Its end was reached: what it was made of is good under its own digests.
    if (!isWhole) void ingest.close();
  };
  signal.addEventListener("abort", stop, { once: true });
  const dropped = (error: unknown) => {
    if (isKept && !signal.aborted) onNotKept(error);
    isKept = false;
    void ingest.close();
  };
  for await (const piece of nar) {
    if (isKept) await ingest.write(piece).catch(dropped);
    yield piece;
  }
  if (!isKept) return undefined;
  isWhole = true;
  const ended = ingest.end();
  ended.catch(() => {});
  return { pieces: undefined, keep: async () => (await ended).node };
}

function ingestInto(store: LocalStore, narInfo: NarInfo) {
  const blobs = store.blobsFor(normalReferences(narInfo));
  return {
    services: { blobs, directories: store.directories },
    limits: { heldBytesMax: HELD_BYTES_MAX, narHash: narInfo.narHash },
  };
}

/** What the plain NAR costs by a narinfo that names its URL. */
export function plainOffer({ narInfo, upstream }: FoundNarInfo): NamedOffer {
  const bytes = plainSizeOf(narInfo);
  const server = `NAR at ${upstream.url.href}`;
  return { kind: "nar", bytes, requests: 1, parallel: 1, link: upstream.link(), server };
}

/** Bytes that the plain NAR costs, at most where the narinfo does not say. */
export function plainSizeOf({ fileSize, narSize }: NarInfo): number {
  return fileSize ?? narSize;
}
