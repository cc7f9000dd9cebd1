import type { LocalStore } from "@castore/castore";
import { LRUCache } from "lru-cache";
import { type StoreHash, storePathHash } from "../nix/store-path.ts";
import type { FoundNarInfo } from "../upstream/upstream-set.ts";
import { plainSizeOf } from "./plain-nar-source.ts";
import { PLAIN_FILE_BYTES_MAX } from "./price-list.ts";
import type { RecentPaths } from "./recent-paths.ts";

/** Paths of first downloads that are remembered, and for how long. */
const PATHS_MAX = 8_192;
const TTL_MS = 600_000;

export interface FirstDownloadsOptions {
  readonly store: Pick<LocalStore, "stats">;
  readonly recent: Pick<RecentPaths, "connected">;
}

/**
 * Closures whose first NAR was asked for when the store held nothing that a path could be made of.
 * Chunks of all of it take more bytes than its compressed NARs, and what describes them comes on
 * top. Decided once, as soon after the store has the closure's own first paths.
 */
export class FirstDownloads {
  readonly #options: FirstDownloadsOptions;
  readonly #paths = new LRUCache<StoreHash, true>({ max: PATHS_MAX, ttl: TTL_MS });

  constructor(options: FirstDownloadsOptions) {
    this.#options = options;
  }

  /** A NAR is asked for: decides about its closure, as far as that is known. */
  begins({ narInfo, upstream }: FoundNarInfo): void {
    const { store, recent } = this.#options;
    const { blobs, seeds } = store.stats();
    if (blobs > 0 || seeds > 0) return;
    for (const member of recent.connected(storePathHash(narInfo.storePath), upstream)) {
      this.#paths.set(storePathHash(member.narInfo.storePath), true);
    }
  }

  /**
   * Whether the path is to come as its NAR, unasked. A small one is not: where a closure has many,
   * chunks of all of them in one request are worth more than the bytes.
   */
  has({ narInfo }: FoundNarInfo): boolean {
    return (
      this.#paths.has(storePathHash(narInfo.storePath)) &&
      narInfo.compression !== "none" &&
      plainSizeOf(narInfo) > PLAIN_FILE_BYTES_MAX
    );
  }
}
