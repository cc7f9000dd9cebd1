import { setTimeout } from "node:timers/promises";
import { type CallOptions, isCastoreError, type LocalStore, messageOf } from "@castore/castore";
import { LRUCache } from "lru-cache";
import type { Log } from "../log.ts";
import type { NarHash } from "../nix/nix-hash.ts";
import { type StoreHash, storePathHash } from "../nix/store-path.ts";
import type { PathInfo } from "../path-infos/path-info.ts";
import type { FoundNarInfo, UpstreamSet } from "../upstream/upstream-set.ts";
import type { BridgeMetrics } from "./bridge-metrics.ts";
import { createCastoreNarSource } from "./castore-nar-source.ts";
import type { CastoreWays } from "./castore-ways.ts";
import type { ContentsServer } from "./contents-server.ts";
import { EarlyContents } from "./early-contents.ts";
import { FirstDownloads } from "./first-downloads.ts";
import type { NarSource } from "./nar-delivery.ts";
import type { PathCostMeter } from "./path-cost.ts";
import { createPlainNarSource, plainOffer, plainSizeOf } from "./plain-nar-source.ts";
import { type NamedOffer, type NarWay, PLAIN_FILE_BYTES_MAX } from "./price-list.ts";
import type { RecentPaths } from "./recent-paths.ts";

/** How long a source that delivered wrong bytes is not used for that path again. */
const WRONG_REST_MS = 3_600_000;
const WRONG_MAX = 8_192;
/**
 * How long a NAR that a client was given waits before it is stored: where Nix unpacked 5,000 small
 * files beside a store that did, on two cores and one disk, it took twice its time.
 */
const UNPACKING_MS = 500;

export type UpgradeMode = "auto" | "never" | "require";

export interface NarSourcesOptions {
  readonly store: LocalStore;
  readonly upstreams: UpstreamSet;
  readonly upgrade: UpgradeMode;
  readonly castoreWays: CastoreWays;
  readonly metrics: BridgeMetrics;
  readonly log: Log;
  readonly recent: RecentPaths;
  /** Whether the NAR is proven and on its way into the store. */
  readonly isStoring: (narHash: NarHash) => boolean;
  /** What the path cost so far, to be added to. */
  readonly costOf: (storeHash: StoreHash) => PathCostMeter;
  /** Called once a source's bytes matched. */
  readonly onProven: (found: FoundNarInfo, way: NarWay, proven: ProvenNar) => void;
}

/** A NAR of which all bytes matched. */
export interface ProvenNar {
  /** What it proves, once it is stored. */
  readonly stored: Promise<PathInfo>;
  /** All of it, where it is held until then. */
  readonly pieces?: readonly Uint8Array[] | undefined;
}

export interface NarWaysOptions {
  readonly signal: AbortSignal;
  /** Called when the NAR begins to come; the result once the link has room for others. */
  readonly onComing?: (() => () => void) | undefined;
  /** Bytes that a NAR may take until it is stored. */
  readonly waitingBytesMax: number;
  /** Whether a client is there who unpacks the NAR as soon as it has it. */
  readonly isAsked: boolean;
}

interface CastoreSourceOptions extends NarWaysOptions {
  /** Whether there is no plain NAR to be preferred. */
  readonly isLast: boolean;
}

/** The ways to a NAR: castore servers, and the NAR as its upstream serves it. */
export class NarSources implements Disposable {
  readonly #options: NarSourcesOptions;
  readonly #wrong = new LRUCache<string, true>({ max: WRONG_MAX, ttl: WRONG_REST_MS });
  readonly #early: EarlyContents;
  readonly #first: FirstDownloads;
  readonly #closing = new AbortController();

  constructor(options: NarSourcesOptions) {
    this.#options = options;
    this.#early = new EarlyContents(options);
    this.#first = new FirstDownloads(options);
  }

  /** The ways to the NAR, best first, each made when the ones before it failed. */
  async *of(found: FoundNarInfo, options: NarWaysOptions): AsyncGenerator<NarSource> {
    const { upgrade, upstreams } = this.#options;
    const { signal } = options;
    const { storePath, narHash } = found.narInfo;
    if (upgrade !== "require") this.#first.begins(found);
    const tried = new Set<unknown>();
    for (let at: FoundNarInfo | undefined = found; at !== undefined; ) {
      tried.add(at.upstream);
      if (at.narInfo.narHash === narHash) yield* this.#at(at, options);
      const storeHash = storePathHash(storePath);
      at = await upstreams.findNarInfoElsewhere(storeHash, { signal, except: tried });
    }
  }

  /** Starts to fetch the contents of paths that were described already and will be asked for. */
  async fetchEarly(paths: readonly FoundNarInfo[], options: CallOptions): Promise<void> {
    const [first] = paths;
    const server = first && (await this.#options.castoreWays.for(first.upstream, options));
    if (server !== undefined) await this.#early.fetch(server, paths);
  }

  [Symbol.dispose](): void {
    this.#closing.abort();
    this.#early[Symbol.dispose]();
  }

  /** The ways to the NAR by one upstream. */
  async *#at(found: FoundNarInfo, options: NarWaysOptions): AsyncGenerator<NarSource> {
    const { upgrade, costOf } = this.#options;
    if (this.#first.has(found)) {
      costOf(storeHashOf(found)).because("the store had nothing that it could be made of");
    } else {
      yield* this.#castoreSources(found, { ...options, isLast: upgrade === "require" });
    }
    if (upgrade === "require") return;
    const asked = await this.#asked(found, options);
    if (asked === undefined) return;
    if (!this.#isWrong(asked, "plain")) yield this.#plainSource(asked, options);
    // Whatever that costs: there is nothing else.
    yield* this.#castoreSources(found, { ...options, isLast: true });
  }

  /** By the servers to ask for the path's contents, best first, as far as they work. */
  async *#castoreSources(
    found: FoundNarInfo,
    options: CastoreSourceOptions,
  ): AsyncGenerator<NarSource> {
    const { upgrade, castoreWays, costOf } = this.#options;
    if (upgrade === "never") return;
    const { signal, isLast } = options;
    const cost = costOf(storeHashOf(found));
    for await (const server of castoreWays.servers(found, { signal })) {
      if (this.#isWrong(found, server.way)) continue;
      const isSmall = () => !isLast && this.#isSmall(found, server);
      if (!(isSmall() && this.#isAlone(found))) {
        if (!(await server.isUsable({ signal, cost: cost.metadata }))) continue;
        if (!isSmall() || server.tellsOfMany) {
          yield this.#castoreSource(found, server, options);
          continue;
        }
      }
      cost.because(`the NAR has at most ${PLAIN_FILE_BYTES_MAX} bytes`);
    }
  }

  #castoreSource(
    found: FoundNarInfo,
    server: ContentsServer,
    { signal, onComing, isLast }: CastoreSourceOptions,
  ): NarSource {
    const { narInfo, upstream } = found;
    const { recent, costOf, isStoring } = this.#options;
    const storeHash = storePathHash(narInfo.storePath);
    const cost = costOf(storeHash);
    this.#early.asked(storeHash);
    const { store, metrics, onProven } = this.#options;
    // What comes as its NAR in any case is not worth a question.
    const isOpen = (other: FoundNarInfo) => !this.#first.has(other);
    const closure = () => recent.closureOf(storeHash, upstream).filter(isOpen);
    return createCastoreNarSource({
      server,
      narInfo,
      store,
      cost,
      soon: {
        closure: () => closure().map(storeHashOf),
        others: () => recent.of(upstream).filter(isOpen).map(storeHashOf),
        onDescribed: () => {
          const missing = closure().filter((other) => !isStoring(other.narInfo.narHash));
          void this.#early.fetch(server, missing);
        },
        pays: isLast ? undefined : (of, bytes) => this.#pays(of, bytes),
      },
      plain: async (wireBytes) =>
        isLast ? undefined : await this.#plainOffer(found, wireBytes, { signal }),
      onPlanned: () => onComing?.()(),
      onChunk: (from, size) => {
        metrics.chunks.inc({ from });
        metrics.chunkBytes.inc({ from }, size);
      },
      onProven: (pathInfo, stored) => {
        server.worked();
        this.#early.end(storeHash);
        onProven(found, server.way, { stored: stored.then(() => pathInfo) });
      },
      onFailed: (error, wrong) => {
        server.failed(error);
        this.#failed(found, server.way, error, wrong);
      },
    });
  }

  /** Whether so many bytes are at most those of the plain NAR, as far as that is known. */
  #pays(storeHash: StoreHash, bytes: number): boolean {
    const found = this.#options.recent.get(storeHash);
    return found === undefined || bytes <= plainSizeOf(found.narInfo);
  }

  /** Whether a question of its own would cost more than the NAR. */
  #isSmall({ narInfo }: FoundNarInfo, server: ContentsServer): boolean {
    if (server.isDescribed(storePathHash(narInfo.storePath))) return false;
    return plainSizeOf(narInfo) <= PLAIN_FILE_BYTES_MAX;
  }

  /** Whether the path belongs to no closure that is worth a question. */
  #isAlone({ narInfo, upstream }: FoundNarInfo): boolean {
    const { recent } = this.#options;
    let bytes = 0;
    for (const member of recent.connected(storePathHash(narInfo.storePath), upstream)) {
      if (this.#first.has(member)) continue;
      bytes += plainSizeOf(member.narInfo);
      if (bytes > PLAIN_FILE_BYTES_MAX) return false;
    }
    return true;
  }

  /** The plain NAR's offer; nobody is asked for its size where little else is to be fetched. */
  async #plainOffer(
    found: FoundNarInfo,
    wireBytes: number,
    options: CallOptions,
  ): Promise<NamedOffer | undefined> {
    if (found.narInfo.url === "" && wireBytes <= PLAIN_FILE_BYTES_MAX) return undefined;
    const asked = await this.#asked(found, options);
    return asked && plainOffer(asked);
  }

  #plainSource(
    found: FoundNarInfo,
    { onComing, waitingBytesMax, isAsked }: NarWaysOptions,
  ): NarSource {
    const { narInfo, upstream } = found;
    const { store, log, costOf, onProven } = this.#options;
    const cost = costOf(storePathHash(narInfo.storePath)).contents;
    const download = async function* (signal: AbortSignal): AsyncGenerator<Uint8Array> {
      const onEnd = onComing?.();
      try {
        yield* upstream.openNar(narInfo, { signal, cost });
      } finally {
        onEnd?.();
      }
    };
    return createPlainNarSource({
      name: `NAR at ${upstream.url.href}`,
      narInfo,
      store,
      waitingBytesMax,
      beforeStoring: async () => {
        if (isAsked) await this.#pause(UNPACKING_MS);
      },
      download,
      onProven: (proven) => onProven(found, "plain", proven),
      onFailed: (error, wrong) => this.#failed(found, "plain", error, wrong),
      onNotKept: (error) => {
        log(`${narInfo.storePath}: passed on, but not kept: ${messageOf(error)}`);
      },
    });
  }

  /** Resolves after `ms`, or when everything ends. */
  async #pause(ms: number): Promise<void> {
    await setTimeout(ms, undefined, this.#closing).catch(() => {});
  }

  /** The narinfo with its URL, which one that a closure brought does not have. */
  async #asked(found: FoundNarInfo, options: CallOptions): Promise<FoundNarInfo | undefined> {
    if (found.narInfo.url !== "") return found;
    const { storePath, narHash } = found.narInfo;
    const lookup = await this.#options.upstreams.findNarInfo(storePathHash(storePath), options);
    return lookup.found?.narInfo.narHash === narHash ? lookup.found : undefined;
  }

  #failed(found: FoundNarInfo, way: NarWay, error: unknown, wrong: boolean): void {
    const { metrics, log, costOf } = this.#options;
    const { storePath } = found.narInfo;
    if (isCastoreError(error, "UNSUPPORTED")) return;
    costOf(storePathHash(storePath)).failed(`${way} way by ${found.upstream.url.href}`, error);
    metrics.sourceFailures.inc({ way, fault: wrong ? "wrong" : "failed" });
    if (wrong) this.#wrong.set(wrongKey(found, way), true);
    log(`${storePath}: ${way} way by ${found.upstream.url.href}: ${messageOf(error)}`);
  }

  #isWrong(found: FoundNarInfo, way: NarWay): boolean {
    return this.#wrong.has(wrongKey(found, way));
  }
}

function storeHashOf({ narInfo }: FoundNarInfo): StoreHash {
  return storePathHash(narInfo.storePath);
}

function wrongKey({ upstream, narInfo }: FoundNarInfo, way: NarWay): string {
  return `${way} ${upstream.url.href} ${narInfo.storePath}`;
}
