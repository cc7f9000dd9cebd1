import { LRUCache } from "lru-cache";
import { substitutionOrder } from "../nix/reference-order.ts";
import { type StoreHash, storePathHash, storePathName } from "../nix/store-path.ts";
import type { FoundNarInfo } from "../upstream/upstream-set.ts";

/** Narinfos kept of those that were asked for. */
const RECENT_MAX = 8_192;
/** Paths asked for within this time are likely to be substituted together. */
export const TOGETHER_MS = 60_000;

/** Trusted narinfos that were asked for lately, or learned with their closure. */
export class RecentPaths {
  readonly #found = new LRUCache<StoreHash, FoundNarInfo>({
    max: RECENT_MAX,
    ttl: TOGETHER_MS,
    dispose: (found) => this.#unlink(found),
  });
  /** Who refers to a path. */
  readonly #referrers = new Map<StoreHash, Set<StoreHash>>();

  get(storeHash: StoreHash): FoundNarInfo | undefined {
    return this.#found.get(storeHash);
  }

  note(found: FoundNarInfo, ttlMs = TOGETHER_MS): void {
    const storeHash = hashOf(found);
    this.#found.set(storeHash, found, { ttl: ttlMs });
    for (const reference of referencesOf(found)) {
      const referrers = this.#referrers.get(reference);
      if (referrers === undefined) this.#referrers.set(reference, new Set([storeHash]));
      else referrers.add(storeHash);
    }
  }

  /** All that `upstream` has, the latest first. */
  of(upstream: FoundNarInfo["upstream"]): FoundNarInfo[] {
    return [...this.#found.values()].filter((found) => found.upstream === upstream);
  }

  /**
   * The paths that belong to a closure with `storeHash`, as far as `upstream` has them: those that
   * it refers to or that refer to it, over any number of steps. It comes first.
   */
  *connected(
    storeHash: StoreHash,
    upstream: FoundNarInfo["upstream"],
  ): Generator<FoundNarInfo, void, undefined> {
    const met = new Set([storeHash]);
    for (const member of met) {
      const found = this.#found.peek(member);
      if (found?.upstream !== upstream) continue;
      yield found;
      for (const next of referencesOf(found)) met.add(next);
      for (const next of this.#referrers.get(member) ?? []) met.add(next);
    }
  }

  /** The same in the order in which Nix asks for them: what is referred to first. */
  closureOf(storeHash: StoreHash, upstream: FoundNarInfo["upstream"]): FoundNarInfo[] {
    const members = new Map<StoreHash, FoundNarInfo>();
    for (const found of this.connected(storeHash, upstream)) members.set(hashOf(found), found);
    const paths = new Map(
      [...members].map(([hash, found]) => {
        const name = storePathName(found.narInfo.storePath);
        return [hash, { name, references: referencesOf(found) }];
      }),
    );
    return substitutionOrder(paths).flatMap((hash) => members.get(hash) ?? []);
  }

  #unlink(found: FoundNarInfo): void {
    const storeHash = hashOf(found);
    for (const reference of referencesOf(found)) {
      const referrers = this.#referrers.get(reference);
      referrers?.delete(storeHash);
      if (referrers?.size === 0) this.#referrers.delete(reference);
    }
  }
}

function hashOf({ narInfo }: FoundNarInfo): StoreHash {
  return storePathHash(narInfo.storePath);
}

function referencesOf({ narInfo }: FoundNarInfo): StoreHash[] {
  return narInfo.references.map(storePathHash);
}
