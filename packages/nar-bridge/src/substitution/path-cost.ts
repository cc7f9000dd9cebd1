import {
  createTransferCost,
  type LocalStore,
  messageOf,
  type Node,
  type StoreTable,
  type TransferCost,
} from "@castore/castore";
import { LRUCache } from "lru-cache";
import type { StoreHash } from "../nix/store-path.ts";
import type { NarWay, Offer, Price } from "./price-list.ts";

/** The table of a local store that says what each path cost. */
const COST_TABLE = "path-costs";
const VERSION = 1;
/** Failures kept of one path. */
const FAILURES_MAX = 8;

/** A price, and who would have been paid. */
export type NamedPrice = Pick<Price, Exclude<keyof Offer, "link"> | "ms" | "verdict"> & {
  readonly server: string;
  readonly bytesPerSecond: number;
  readonly roundTripMs: number;
};

export interface ChunkCount {
  count: number;
  bytes: number;
}

/** What a path cost, and why. */
export interface PathCost {
  /** When it was stored, in ms since 1970. */
  readonly at: number;
  /** The upstream whose narinfo it was. */
  readonly upstream: string;
  readonly way: NarWay;
  readonly why: string;
  readonly narSize: number;
  /** Bytes of the NAR as the upstream serves it, where it says. */
  readonly fileSize?: number | undefined;
  readonly prices: readonly NamedPrice[];
  /** Ways that were tried in vain. */
  readonly failures: readonly string[];
  /**
   * What questions took. One that told of several paths counts for the first; narinfos, which
   * everybody asks for, do not count.
   */
  readonly metadata: TransferCost;
  /** What contents took. A request for several paths counts for the first. */
  readonly contents: TransferCost;
  /** Chunks used, by where they were; bytes before compression. */
  readonly chunks: Readonly<Record<"local" | "remote", Readonly<ChunkCount>>>;
}

/** Gathers what a path costs while it is substituted. */
export class PathCostMeter {
  readonly metadata = createTransferCost();
  readonly contents = createTransferCost();
  readonly chunks = { local: { count: 0, bytes: 0 }, remote: { count: 0, bytes: 0 } };
  #prices: NamedPrice[] = [];
  #why: string | undefined;
  readonly #failures: string[] = [];

  chunkUsed(from: "local" | "remote", bytes: number): void {
    this.chunks[from].count++;
    this.chunks[from].bytes += bytes;
  }

  priced(prices: readonly (Price & { readonly server: string })[]): void {
    this.#prices = prices.map(({ link, ...price }) => ({ ...price, ...link }));
  }

  failed(source: string, error: unknown): void {
    if (this.#failures.length === FAILURES_MAX) return;
    this.#failures.push(`${source}: ${messageOf(error)}`);
  }

  /** Says why the way is the one that it is; by default the prices, or the failures, do. */
  because(why: string): void {
    this.#why = why;
  }

  result(way: NarWay, path: Pick<PathCost, "upstream" | "narSize" | "fileSize">): PathCost {
    const why = this.#why ?? this.#defaultWhy(way);
    const { metadata, contents, chunks } = this;
    return {
      ...{ at: Date.now(), ...path, way, why },
      ...{ prices: this.#prices, failures: this.#failures, metadata, contents, chunks },
    };
  }

  #defaultWhy(way: NarWay): string {
    if (this.#failures.length > 0) return "what was tried before failed";
    if (this.#prices.length > 0) return "the best price";
    return way === "plain" ? "no other way is known" : "the only way";
  }
}

/** Paths whose cost is gathered at once. */
const METERS_MAX = 8_192;

/** What paths cost, as long as their roots are in the store: some hundred bytes for each. */
export class PathCosts {
  readonly #table: StoreTable;
  readonly #meters = new LRUCache<StoreHash, PathCostMeter>({ max: METERS_MAX });

  constructor(store: LocalStore) {
    this.#table = store.table(COST_TABLE);
  }

  /** What gathers the cost of the path, until that is put. */
  meterOf(storeHash: StoreHash): PathCostMeter {
    const meter = this.#meters.get(storeHash) ?? new PathCostMeter();
    this.#meters.set(storeHash, meter);
    return meter;
  }

  async put(storeHash: StoreHash, node: Node, cost: PathCost): Promise<void> {
    this.#meters.delete(storeHash);
    const value = Buffer.from(JSON.stringify({ version: VERSION, ...cost }));
    await this.#table.put([{ key: storeHash, node, value }]);
  }

  /** Undefined where nothing was noted, or by another version. */
  get(storeHash: StoreHash): PathCost | undefined {
    const row = this.#table.get(storeHash);
    if (row === undefined) return undefined;
    const { version, ...cost } = JSON.parse(Buffer.from(row.value).toString());
    return version === VERSION ? cost : undefined;
  }
}
