import { CastoreError, type LocalStore } from "@castore/castore";
import { decompress, parseCompression } from "../compression/compression.ts";
import { createNarIngest } from "../nar/nar-ingest.ts";
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
  /** The NAR as served, compressed as the narinfo says. */
  readonly download: (signal: AbortSignal) => AsyncIterable<Uint8Array>;
  /** Called once bytes matched the NAR hash, with what they prove; it is being stored. */
  readonly onProven: (stored: Promise<PathInfo>) => void;
  readonly onFailed?: (error: unknown, wrong: boolean) => void;
  /** The NAR passes, but cannot be kept: disk full, say. */
  readonly onNotKept: (error: unknown) => void;
}

/** The NAR as an upstream serves it, decompressed, and ingested while it passes. */
export function createPlainNarSource(options: PlainNarSourceOptions): NarSource {
  const { narInfo, store } = options;
  let keep: (() => Promise<PathInfo>) | undefined;
  return {
    name: options.name,
    async *open(signal) {
      const blobs = store.blobsFor(normalReferences(narInfo));
      const ingest = createNarIngest(
        { blobs, directories: store.directories },
        { heldBytesMax: HELD_BYTES_MAX, narHash: narInfo.narHash },
      );
      let isKept = true;
      let isWhole = false;
      const stop = () => {
        // Its end was reached: what it was made of is good under its own digests.
        if (!isWhole) void ingest.close();
      };
      signal.addEventListener("abort", stop, { once: true });
      const dropped = (error: unknown) => {
        if (isKept && !signal.aborted) options.onNotKept(error);
        isKept = false;
        void ingest.close();
      };
      const compression = parseCompression(narInfo.compression);
      if (compression === undefined) {
        const what = `${narInfo.storePath}: compression ${narInfo.compression} is not known`;
        throw new CastoreError("UNSUPPORTED", what);
      }
      const size = narInfo.narSize;
      const nar = decompress(compression, options.download(signal), { signal, size });
      for await (const piece of nar) {
        if (isKept) await ingest.write(piece).catch(dropped);
        yield piece;
      }
      if (!isKept) return;
      isWhole = true;
      const ended = ingest.end();
      ended.catch(() => {});
      keep = async () => pathInfoOf(narInfo, (await ended).node);
    },
    proven() {
      if (keep !== undefined) options.onProven(keep());
    },
    failed: (error, wrong) => options.onFailed?.(error, wrong),
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
