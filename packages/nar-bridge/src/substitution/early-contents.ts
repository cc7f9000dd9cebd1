import { type ChunkPlan, type LocalStore, planTree } from "@castore/castore";
import { type StoreHash, storePathHash } from "../nix/store-path.ts";
import type { FoundNarInfo } from "../upstream/upstream-set.ts";
import type { ContentsServer } from "./contents-server.ts";
import type { PathCostMeter } from "./path-cost.ts";
import { plainOffer } from "./plain-nar-source.ts";
import { priceList } from "./price-list.ts";
import { TOGETHER_MS } from "./recent-paths.ts";

/** Paths whose chunks are asked for at once: enough to fill a request. */
const GROUP_PATHS = 32;

export interface EarlyContentsOptions {
  readonly store: LocalStore;
  readonly costOf: (storeHash: StoreHash) => PathCostMeter;
}

interface EarlyPath {
  readonly timer: NodeJS.Timeout;
  plan: ChunkPlan | undefined;
  /** Somebody asked for it: what is not fetched early by now need not be any more. */
  isAsked: boolean;
}

/**
 * Fetches the chunks of paths that nobody asked for yet but will, at lower priority than all others
 * and within the fetcher's limit. They are held in memory until the path is asked for, or given up
 * after TOGETHER_MS.
 */
export class EarlyContents implements Disposable {
  readonly #options: EarlyContentsOptions;
  readonly #paths = new Map<StoreHash, EarlyPath>();

  constructor(options: EarlyContentsOptions) {
    this.#options = options;
  }

  /** Fetches what is missing of `paths`, in their order, as far as `server` described them. */
  async fetch(server: ContentsServer, paths: readonly FoundNarInfo[]): Promise<void> {
    for (let at = 0; at < paths.length; at += GROUP_PATHS) {
      const group = paths.slice(at, at + GROUP_PATHS);
      // What cannot be planned is told when somebody asks for it.
      const plans = group.map((found) => this.#prepare(server, found).catch(() => undefined));
      for (const open of await Promise.all(plans)) open?.();
    }
  }

  /** Somebody asks for the path, and fetches what is still missing. */
  asked(storeHash: StoreHash): void {
    this.#note(storeHash).isAsked = true;
  }

  /** The path is here: what was fetched for it is no longer held. */
  end(storeHash: StoreHash): void {
    this.#paths.get(storeHash)?.plan?.[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    for (const storeHash of this.#paths.keys()) this.#forget(storeHash);
  }

  #note(storeHash: StoreHash): EarlyPath {
    const known = this.#paths.get(storeHash);
    if (known !== undefined) return known;
    const timer = setTimeout(() => this.#forget(storeHash), TOGETHER_MS).unref();
    const early: EarlyPath = { timer, plan: undefined, isAsked: false };
    this.#paths.set(storeHash, early);
    return early;
  }

  #forget(storeHash: StoreHash): void {
    this.end(storeHash);
    clearTimeout(this.#paths.get(storeHash)?.timer);
    this.#paths.delete(storeHash);
  }

  /** Finds out what is to be fetched; the result starts it. */
  async #prepare(server: ContentsServer, found: FoundNarInfo): Promise<(() => void) | undefined> {
    const { store, costOf } = this.#options;
    const { narInfo } = found;
    const storeHash = storePathHash(narInfo.storePath);
    if (this.#paths.has(storeHash) || !server.isDescribed(storeHash)) return undefined;
    const early = this.#note(storeHash);
    const contents = await server.describe(narInfo);
    if (contents === undefined || "estimate" in contents) return undefined;
    const tree = await planTree(contents.node, contents.recipe, store);
    const offer = await server.offer(tree);
    const plain = narInfo.url === "" ? [] : [plainOffer(found)];
    const [price] = priceList([offer, ...plain]);
    if (tree.missingCount === 0 || price?.verdict !== "taken") return undefined;
    return () => {
      if (early.isAsked || this.#paths.get(storeHash) !== early) return;
      const cost = costOf(storeHash).contents;
      early.plan = server.fetcher.plan(tree.missing, { cost, urgency: "early" });
    };
  }
}
