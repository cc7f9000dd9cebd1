import {
  type CallOptions,
  CastoreError,
  isCastoreError,
  type Lease,
  type LocalStore,
  messageOf,
  type Node,
} from "@castore/castore";
import { LRUCache } from "lru-cache";
import type { Log } from "../log.ts";
import { type ContentCheck, createContentCheck, hasContent } from "../nar/content-check.ts";
import { createNarLayout } from "../nar/nar-layout.ts";
import { formatSnixNarUrl, parseSnixNarUrl } from "../nix/cache-url.ts";
import type { NarInfo } from "../nix/nar-info.ts";
import { formatNarInfo, parseNarInfo } from "../nix/nar-info-text.ts";
import type { NarHash } from "../nix/nix-hash.ts";
import { type StoreHash, storePathHash } from "../nix/store-path.ts";
import type { TrustedKeys } from "../nix/trusted-keys.ts";
import type { LocalPathInfoService } from "../path-infos/local-path-info-service.ts";
import { narInfoOf, type PathInfo, pathInfoOf } from "../path-infos/path-info.ts";
import type { FoundNarInfo, UpstreamSet } from "../upstream/upstream-set.ts";
import type { BridgeMetrics } from "./bridge-metrics.ts";
import type { ClaimedPath } from "./castore-way.ts";
import type { CastoreWays } from "./castore-ways.ts";
import { EarlyNars } from "./early-nars.ts";
import { HoldBudget } from "./hold-budget.ts";
import { type DeliveryLimits, deliverNar } from "./nar-delivery.ts";
import {
  NarSources,
  type NarWaysOptions,
  type ProvenNar,
  type UpgradeMode,
} from "./nar-sources.ts";
import { PathCosts } from "./path-cost.ts";
import { plainSizeOf } from "./plain-nar-source.ts";
import type { NarWay } from "./price-list.ts";
import { RecentPaths } from "./recent-paths.ts";
import type { ServedNar } from "./served-nar.ts";
import { StoringNars } from "./storing-nars.ts";

/** How long the narinfos of a closure that was asked for as a whole are remembered. */
const CLOSURE_TTL_MS = 600_000;
/** NARs that are remembered as damaged. */
const DAMAGED_MAX = 8_192;

export interface SubstituterOptions {
  readonly store: LocalStore;
  readonly pathInfos: LocalPathInfoService;
  readonly upstreams: UpstreamSet;
  readonly trustedKeys: TrustedKeys;
  readonly upgrade: UpgradeMode;
  readonly castoreWays: CastoreWays;
  readonly metrics: BridgeMetrics;
  readonly log: Log;
  readonly delivery?: DeliveryLimits | undefined;
}

export interface OpenNarOptions {
  readonly signal: AbortSignal;
  /** Longest that the client may be without a byte. */
  readonly waitMs?: number | undefined;
}

export interface OpenedNar {
  /** Bytes. */
  readonly size: number;
  readonly bytes: AsyncIterable<Uint8Array>;
}

/**
 * Substitutes store paths from upstreams into the local store: the part that the bridge, the
 * command and the mount share. Trusts a narinfo by its signature and a NAR by its hash.
 */
export class Substituter implements AsyncDisposable {
  readonly #options: SubstituterOptions;
  readonly #recent = new RecentPaths();
  readonly #sources: NarSources;
  readonly #early: EarlyNars;
  readonly #costs: PathCosts;
  readonly #holding = new HoldBudget();
  readonly #storing = new StoringNars();
  /** NARs of which something in the store was seen to be damaged, until they are stored anew. */
  readonly #damaged = new LRUCache<NarHash, true>({ max: DAMAGED_MAX });

  constructor(options: SubstituterOptions) {
    this.#options = options;
    this.#costs = new PathCosts(options.store);
    const isStoring = (narHash: NarHash) => this.#storing.has(narHash);
    this.#sources = new NarSources({
      ...{ ...options, isStoring, recent: this.#recent },
      costOf: (storeHash) => this.#costs.meterOf(storeHash),
      onProven: (found, way, proven) => this.#keep(found, way, proven),
    });
    this.#early = new EarlyNars({
      deliver: (found, signal) => this.#deliver(found, { signal }),
      isStored: (narHash) => isStoring(narHash) || options.pathInfos.findNar(narHash) !== undefined,
      stored: (narHash) => this.#storing.done(narHash),
      closureOf: ({ narInfo, upstream }) =>
        this.#recent.closureOf(storePathHash(narInfo.storePath), upstream),
    });
  }

  /**
   * The trusted narinfo of a path, from the local store or the first upstream that has one;
   * undefined where there is none, for reasons that are logged.
   */
  async narInfo(storeHash: StoreHash, options: CallOptions = {}): Promise<NarInfo | undefined> {
    const local = await this.#localNarInfo(storeHash, options);
    if (local !== undefined) return local;
    const found = await this.#find(storeHash, options);
    return found?.narInfo;
  }

  /** To be held while a NAR is asked for and read: until then nothing of it is collected. */
  lease(): Lease {
    return this.#options.store.lease();
  }

  /** Resolves once `provenNar` has a NAR of that hash that it had not. */
  async nextProven(narHash: NarHash, options: { readonly signal: AbortSignal }): Promise<void> {
    await this.#storing.nextServable(narHash, options);
  }

  /**
   * The proven NAR of that hash from the local store, or from memory while it goes there; undefined
   * also where it is damaged.
   */
  async provenNar(narHash: NarHash, options: CallOptions = {}): Promise<ServedNar | undefined> {
    const held = this.#storing.held(narHash);
    if (held !== undefined) return held;
    await this.#storing.done(narHash);
    const { pathInfos, store } = this.#options;
    const proven = pathInfos.findNar(narHash);
    if (proven === undefined || this.#damaged.has(narHash)) return undefined;
    try {
      const layout = await createNarLayout(proven.node, store, options);
      return {
        size: layout.size,
        etag: narHash,
        stream: (start, end) => this.#watched(narHash, layout.stream(start, end)),
      };
    } catch (error) {
      options.signal?.throwIfAborted();
      this.#options.log(`${narHash}: not readable in the local store: ${messageOf(error)}`);
      return undefined;
    }
  }

  /** Who asks again after damage has shown gets the NAR from an upstream, which heals the store. */
  async *#watched(narHash: NarHash, pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    try {
      yield* pieces;
    } catch (error) {
      if (isCastoreError(error, "CORRUPT")) this.#damaged.set(narHash, true);
      throw error;
    }
  }

  /**
   * The NAR of a path from wherever it is to be had, provisional until its end (see deliverNar),
   * kept in the store on the way. Undefined where no upstream has that path with that NAR hash.
   */
  async openNar(
    storeHash: StoreHash,
    narHash: NarHash,
    options: OpenNarOptions,
  ): Promise<OpenedNar | undefined> {
    const found = await this.#find(storeHash, options);
    if (found === undefined) return undefined;
    const { narInfo } = found;
    if (narInfo.narHash !== narHash) {
      this.#options.log(`${narInfo.storePath}: now has NAR ${narInfo.narHash}, not ${narHash}`);
      return undefined;
    }
    return { size: narInfo.narSize, bytes: this.#deliverAsked(found, options) };
  }

  /** The trusted narinfo, and who may tell of its root; undefined where nobody does, or now. */
  async claim(storeHash: StoreHash, options: CallOptions = {}): Promise<ClaimedPath | undefined> {
    if (this.#options.upgrade === "never") return undefined;
    const found = await this.#find(storeHash, options);
    if (found === undefined) return undefined;
    const way = await this.#options.castoreWays.for(found.upstream, options);
    return way && (await way.isUsable(options)) ? { narInfo: found.narInfo, way } : undefined;
  }

  /** Resolves once the path is in the local store, proven. Rejects where no source gives it. */
  async substitute(
    storeHash: StoreHash,
    options: { readonly signal: AbortSignal },
  ): Promise<{ readonly pathInfo: PathInfo; readonly isPresent: boolean }> {
    const { pathInfos } = this.#options;
    const present = await pathInfos.getStored(storeHash, options);
    // What is only vouched for need not be here.
    if (present?.proof.by === "rendered") return { pathInfo: present.pathInfo, isPresent: true };
    const found = await this.#find(storeHash, options);
    if (found === undefined) {
      throw new CastoreError("INCOMPLETE", `${storeHash}: no upstream has it`);
    }
    const { narInfo } = found;
    using _lease = this.lease();
    const root = pathInfos.findNar(narInfo.narHash);
    if (root !== undefined && (await this.#hasContents(narInfo, root.node, options))) {
      const pathInfo = await this.#putSame(found, root.node);
      return { pathInfo, isPresent: false };
    }
    for await (const _piece of this.#deliver(found, options)) {
      // The bytes are kept on the way; here nobody else wants them.
    }
    await this.#storing.done(narInfo.narHash);
    const stored = await pathInfos.getStored(storeHash, options);
    if (stored?.proof.by === "rendered") return { pathInfo: stored.pathInfo, isPresent: false };
    throw new CastoreError("UNAVAILABLE", `${narInfo.storePath}: could not be stored`);
  }

  /** Notes that a client gets the NAR from the store. */
  noteAsked(narHash: NarHash): void {
    this.#early.asked(narHash);
  }

  /**
   * Notes that the client got the NAR of a path from the store, where it was under another name:
   * the path is in the store from now on.
   */
  async noteServed(storeHash: StoreHash, narHash: NarHash): Promise<void> {
    const found = this.#recent.get(storeHash);
    const { pathInfos } = this.#options;
    if (found?.narInfo.narHash !== narHash) return;
    await this.#storing.done(narHash);
    if ((await pathInfos.getStored(storeHash))?.proof.by === "rendered") return;
    const root = pathInfos.findNar(narHash);
    if (root === undefined || !(await this.#hasContents(found.narInfo, root.node, {}))) return;
    await this.#putSame(found, root.node);
  }

  /**
   * Learns the narinfos of whole closures in few requests, where an upstream offers castore. What
   * it does not learn, or may not trust, is asked for path by path later.
   */
  async loadClosure(storeHashes: readonly StoreHash[], options: CallOptions = {}): Promise<void> {
    if (this.#options.upgrade === "never") return;
    const { castoreWays, trustedKeys, log } = this.#options;
    for (const storeHash of storeHashes) {
      const found = await this.#find(storeHash, options);
      const way = found && (await castoreWays.for(found.upstream, options));
      if (found === undefined || way === undefined || !(await way.isUsable(options))) continue;
      try {
        const cost = this.#costs.meterOf(storeHash).metadata;
        // A cache that names NARs by their contents does so for all: its URLs need no question.
        const isSnix = parseSnixNarUrl(found.narInfo.url) !== undefined;
        const asked = { ...options, cost, summaries: this.#options.upgrade !== "require" };
        for (const pathInfo of await way.metadata.closure([storeHash], asked)) {
          if (trustedKeys.trusts(pathInfo) === undefined) continue;
          // Else without its URL: the plain way asks the upstream for it.
          const narInfo = narInfoOf(pathInfo, isSnix ? formatSnixNarUrl(pathInfo) : "");
          if (storePathHash(narInfo.storePath) === storeHash) continue;
          this.#recent.note({ ...found, narInfo }, CLOSURE_TTL_MS);
        }
        this.#recent.note(found, CLOSURE_TTL_MS);
      } catch (error) {
        options.signal?.throwIfAborted();
        way.failed(error);
        log(`closure of ${storeHash}: ${messageOf(error)}`);
      }
    }
  }

  /** Starts to fetch the contents of paths that `loadClosure` learned of, in this order. */
  async fetchEarly(storeHashes: readonly StoreHash[], options: CallOptions = {}): Promise<void> {
    const wanted: FoundNarInfo[] = [];
    for (const storeHash of storeHashes) {
      const found = this.#recent.get(storeHash);
      const isHere = await this.#options.pathInfos.get(storeHash, options);
      if (found !== undefined && isHere === undefined) wanted.push(found);
    }
    await this.#sources.fetchEarly(wanted, options);
  }

  /** Waits for what is being stored. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#early[Symbol.dispose]();
    this.#sources[Symbol.dispose]();
    await this.#storing.settled();
  }

  async #localNarInfo(storeHash: StoreHash, options: CallOptions): Promise<NarInfo | undefined> {
    const { pathInfos, trustedKeys } = this.#options;
    const stored = await pathInfos.getStored(storeHash, options).catch((error: unknown) => {
      // A damaged row is no reason to keep the path from the user while an upstream has it.
      if (!isCastoreError(error, "CORRUPT")) throw error;
      this.#options.log(`${storeHash}: not readable in the local store: ${error.message}`);
      return undefined;
    });
    if (stored === undefined || trustedKeys.trusts(stored.pathInfo) === undefined) return undefined;
    const { pathInfo, upstream } = stored;
    if (upstream === undefined) return narInfoOf(pathInfo, "");
    return parseNarInfo(upstream.narInfo, pathInfo.storeDir);
  }

  /** A path whose NAR is in the store under another name. */
  async #putSame(found: FoundNarInfo, root: Node): Promise<PathInfo> {
    this.#costs.meterOf(storePathHash(found.narInfo.storePath)).because("its NAR was in the store");
    return await this.#putProven(found, pathInfoOf(found.narInfo, root), "local");
  }

  async #putProven(found: FoundNarInfo, pathInfo: PathInfo, way: NarWay): Promise<PathInfo> {
    const { narInfo, upstream } = found;
    const { url } = upstream;
    const source = { url: url.href, narInfo: formatNarInfo(narInfo) };
    const proof = { by: "rendered" } as const;
    const isWhole = narInfo.url !== "";
    await this.#options.pathInfos.putStored([
      { pathInfo, proof, upstream: isWhole ? source : undefined },
    ]);
    this.#damaged.delete(narInfo.narHash);
    await this.#putCost(found, pathInfo.node, way);
    return pathInfo;
  }

  async #putCost({ narInfo, upstream }: FoundNarInfo, root: Node, way: NarWay): Promise<void> {
    const { narSize } = narInfo;
    const storeHash = storePathHash(narInfo.storePath);
    const fileSize = narInfo.url === "" ? undefined : plainSizeOf(narInfo);
    const of = { upstream: upstream.url.href, narSize, fileSize };
    const cost = this.#costs.meterOf(storeHash).result(way, of);
    this.#options.metrics.spent(way, cost);
    await this.#costs.put(storeHash, root, cost);
  }

  /** The upstream that has a trusted narinfo of the path, asked or remembered. */
  async #find(storeHash: StoreHash, options: CallOptions): Promise<FoundNarInfo | undefined> {
    const { upstreams, metrics, log } = this.#options;
    const recent = this.#recent.get(storeHash);
    if (recent !== undefined) return recent;
    const { found, reasons } = await upstreams.findNarInfo(storeHash, options);
    if (found === undefined) {
      metrics.narInfoMisses.inc();
      if (reasons.length > 0) log(`${storeHash}: ${reasons.join("; ")}`);
      return undefined;
    }
    this.#recent.note(found);
    return found;
  }

  /** What CA alone vouches for counts only if the contents are those that it names. */
  #contentCheck(narInfo: NarInfo): (() => ContentCheck) | undefined {
    const { storePath, references, ca } = narInfo;
    const trust = this.#options.trustedKeys.trusts(narInfo);
    if (trust?.by !== "content-address" || ca === undefined) return undefined;
    return () => createContentCheck({ storePath, references, ca });
  }

  async #hasContents(narInfo: NarInfo, root: Node, options: CallOptions): Promise<boolean> {
    const check = this.#contentCheck(narInfo);
    return check === undefined || (await hasContent(check(), root, this.#options.store, options));
  }

  /** For a client, who will also ask for the rest of the closure. */
  async *#deliverAsked(found: FoundNarInfo, options: OpenNarOptions): AsyncGenerator<Uint8Array> {
    const { narHash } = found.narInfo;
    const asked = { ...options, onComing: () => this.#early.comes(found), isAsked: true };
    yield* this.#early.take(narHash, options.signal) ?? this.#deliver(found, asked);
  }

  async *#deliver(
    found: FoundNarInfo,
    options: OpenNarOptions & Partial<NarWaysOptions>,
  ): AsyncGenerator<Uint8Array> {
    const { metrics, delivery } = this.#options;
    const { narHash, narSize } = found.narInfo;
    const lease = this.lease();
    const hold = this.#holding.take(narSize);
    metrics.narsUnderWay.inc();
    try {
      const expected = { narHash, narSize, contentCheck: this.#contentCheck(found.narInfo) };
      const ways = { isAsked: false, ...options, waitingBytesMax: hold.bytes };
      const limits = { ...options, ...delivery, holdBytes: hold.bytes };
      yield* deliverNar(expected, this.#sources.of(found, ways), limits);
    } finally {
      metrics.narsUnderWay.dec();
      void this.#storing.done(narHash).then(() => lease.release());
      void this.#storing.left(narHash).then(() => hold.release());
    }
  }

  /** Notes the proven path once its parts are stored. */
  #keep(found: FoundNarInfo, way: NarWay, { stored, pieces }: ProvenNar): void {
    const { metrics, log } = this.#options;
    const { narHash, narSize, storePath } = found.narInfo;
    metrics.nars.inc({ way });
    metrics.narBytes.inc({ way }, narSize);
    const put = async () => void (await this.#putProven(found, await stored, way));
    const kept = put().catch((error: unknown) => {
      log(`${storePath}: passed on, but not kept: ${messageOf(error)}`);
    });
    this.#storing.add(narHash, kept, pieces);
  }
}
