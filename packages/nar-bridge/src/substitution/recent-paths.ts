import { LRUCache } from "lru-cache";
import { leavesFirst } from "../nix/reference-order.ts";
import { type StoreHash, storePathHash } from "../nix/store-path.ts";
import type { FoundNarInfo } from "../upstream/upstream-set.ts";

/** Narinfos kept of those that were asked for. */
const RECENT_MAX = 8_192;
/** Paths asked for within this time are likely to be substituted together. */
export const TOGETHER_MS = 60_000;

/** Trusted narinfos that were asked for lately, or learned with their closure. */
export class RecentPaths {
  readonly #found = new LRUCache<StoreHash, FoundNarInfo>({ max: RECENT_MAX, ttl: TOGETHER_MS });

  get(storeHash: StoreHash): FoundNarInfo | undefined {
    return this.#found.get(storeHash);
  }

  note(found: FoundNarInfo, ttlMs = TOGETHER_MS): void {
    this.#found.set(storePathHash(found.narInfo.storePath), found, { ttl: ttlMs });
  }

  /** All that `upstream` has, the latest first. */
  of(upstream: FoundNarInfo["upstream"]): FoundNarInfo[] {
    return [...this.#found.values()].filter((found) => found.upstream === upstream);
  }

  /**
   * The paths that belong to a closure with `storeHash`, as far as `upstream` has them: those that
   * it refers to or that refer to it, over any number of steps. What is referred to first.
   */
  closureOf(storeHash: StoreHash, upstream: FoundNarInfo["upstream"]): FoundNarInfo[] {
    const references = new Map<StoreHash, StoreHash[]>();
    const neighbours = new Map<StoreHash, StoreHash[]>();
    for (const found of this.of(upstream)) {
      const from = storePathHash(found.narInfo.storePath);
      const to = found.narInfo.references.map(storePathHash);
      references.set(from, to);
      for (const reference of to) {
        add(neighbours, from, reference);
        add(neighbours, reference, from);
      }
    }
    const met = new Set([storeHash]);
    for (const from of met) for (const next of neighbours.get(from) ?? []) met.add(next);
    const paths: FoundNarInfo[] = [];
    for (const member of leavesFirst([...met], references)) {
      const found = this.#found.peek(member);
      if (found?.upstream === upstream) paths.push(found);
    }
    return paths;
  }
}

function add(map: Map<StoreHash, StoreHash[]>, from: StoreHash, to: StoreHash): void {
  const known = map.get(from);
  if (known === undefined) map.set(from, [to]);
  else known.push(to);
}
