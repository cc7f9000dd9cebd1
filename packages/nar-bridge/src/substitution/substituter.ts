import {
  type CallOptions,
  CastoreError,
  isCastoreError,
  type Lease,
  type LocalStore,
  type Node,
} from "@castore/castore";
import { LRUCache } from "lru-cache";
import type { Log } from "../log.ts";
import { type ContentCheck, createContentCheck, hasContent } from "../nar/content-check.ts";
import { createNarLayout } from "../nar/nar-layout.ts";
import type { NarInfo } from "../nix/nar-info.ts";
import { formatNarInfo, parseNarInfo } from "../nix/nar-info-text.ts";
import type { NarHash } from "../nix/nix-hash.ts";
import { type StoreHash, storePathHash } from "../nix/store-path.ts";
import type { TrustedKeys } from "../nix/trusted-keys.ts";
import type { LocalPathInfoService } from "../path-infos/local-path-info-service.ts";
import { narInfoOf, type PathInfo, pathInfoOf } from "../path-infos/path-info.ts";
import type { FoundNarInfo, UpstreamSet } from "../upstream/upstream-set.ts";
import type { BridgeMetrics, NarWay } from "./bridge-metrics.ts";
import { createCastoreNarSource } from "./castore-nar-source.ts";
import type { ClaimedPath } from "./castore-way.ts";
import type { CastoreWays } from "./castore-ways.ts";
import { HoldBudget } from "./hold-budget.ts";
import { type DeliveryLimits, deliverNar, type NarSource } from "./nar-delivery.ts";
import { createPlainNarSource } from "./plain-nar-source.ts";
import { PLAIN_FILE_BYTES_MAX } from "./price-list.ts";
import type { ServedNar } from "./served-nar.ts";

/** Narinfos kept of those that were asked for. */
const RECENT_MAX = 8_192;
/** Paths asked for within this time are likely to be substituted together. */
const TOGETHER_MS = 60_000;
/** How long a source that delivered wrong bytes is not used for that path again. */
const WRONG_REST_MS = 3_600_000;

export type UpgradeMode = "auto" | "never" | "require";

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
  readonly #recent = new LRUCache<StoreHash, { readonly found: FoundNarInfo; readonly at: number }>(
    { max: RECENT_MAX },
  );
  readonly #wrong = new LRUCache<string, true>({ max: RECENT_MAX, ttl: WRONG_REST_MS });
  readonly #holding = new HoldBudget();
  /** What was proven and is being stored, by NAR hash. */
  readonly #storing = new Map<NarHash, Promise<void>>();

  constructor(options: SubstituterOptions) {
    this.#options = options;
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

  /** The proven NAR of that hash in the local store, or undefined. */
  async provenNar(narHash: NarHash, options: CallOptions = {}): Promise<ServedNar | undefined> {
    await this.#storing.get(narHash);
    const { pathInfos, store } = this.#options;
    const proven = pathInfos.findNar(narHash);
    if (proven === undefined) return undefined;
    try {
      const layout = await createNarLayout(proven.node, store, options);
      return {
        size: layout.size,
        etag: narHash,
        stream: (start, end) => layout.stream(start, end),
      };
    } catch (error) {
      options.signal?.throwIfAborted();
      this.#options.log(`${narHash}: not readable in the local store: ${messageOf(error)}`);
      return undefined;
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
    return { size: narInfo.narSize, bytes: this.#deliver(found, options) };
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
      const pathInfo = await this.#putProven(found, pathInfoOf(narInfo, root.node));
      return { pathInfo, isPresent: false };
    }
    for await (const _piece of this.#deliver(found, options)) {
      // The bytes are kept on the way; here nobody else wants them.
    }
    await this.#storing.get(narInfo.narHash);
    const stored = await pathInfos.getStored(storeHash, options);
    if (stored?.proof.by === "rendered") return { pathInfo: stored.pathInfo, isPresent: false };
    throw new CastoreError("UNAVAILABLE", `${narInfo.storePath}: could not be stored`);
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
        for (const pathInfo of await way.metadata.closure([storeHash], options)) {
          if (trustedKeys.trusts(pathInfo) === undefined) continue;
          // Without its URL: the plain way asks the upstream for it.
          const narInfo = narInfoOf(pathInfo, "");
          const known = { found: { ...found, narInfo }, at: Date.now() };
          const hash = storePathHash(pathInfo.storePath);
          if (!this.#recent.has(hash)) this.#recent.set(hash, known);
        }
      } catch (error) {
        options.signal?.throwIfAborted();
        way.failed(error);
        log(`closure of ${storeHash}: ${messageOf(error)}`);
      }
    }
  }

  /** Waits for what is being stored. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#storing.values());
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

  async #putProven({ narInfo, upstream }: FoundNarInfo, pathInfo: PathInfo): Promise<PathInfo> {
    const source = { url: upstream.url.href, narInfo: formatNarInfo(narInfo) };
    const proof = { by: "rendered" } as const;
    const isWhole = narInfo.url !== "";
    await this.#options.pathInfos.putStored([
      { pathInfo, proof, upstream: isWhole ? source : undefined },
    ]);
    return pathInfo;
  }

  /** The upstream that has a trusted narinfo of the path, asked or remembered. */
  async #find(storeHash: StoreHash, options: CallOptions): Promise<FoundNarInfo | undefined> {
    const { upstreams, metrics, log } = this.#options;
    const recent = this.#recent.get(storeHash);
    if (recent !== undefined && recent.at > Date.now() - TOGETHER_MS) return recent.found;
    const { found, reasons } = await upstreams.findNarInfo(storeHash, options);
    if (found === undefined) {
      metrics.narInfoMisses.inc();
      if (reasons.length > 0) log(`${storeHash}: ${reasons.join("; ")}`);
      return undefined;
    }
    this.#recent.set(storeHash, { found, at: Date.now() });
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

  async *#deliver(found: FoundNarInfo, options: OpenNarOptions): AsyncGenerator<Uint8Array> {
    const { metrics, delivery } = this.#options;
    const { narHash, narSize } = found.narInfo;
    const lease = this.lease();
    const hold = this.#holding.take(narSize);
    metrics.narsUnderWay.inc();
    try {
      const expected = { narHash, narSize, contentCheck: this.#contentCheck(found.narInfo) };
      const limits = { ...options, ...delivery, holdBytes: hold.bytes };
      yield* deliverNar(expected, this.#sources(found, options.signal), limits);
    } finally {
      metrics.narsUnderWay.dec();
      hold.release();
      const storing = this.#storing.get(narHash) ?? Promise.resolve();
      void storing.then(() => lease.release());
    }
  }

  /** The ways to the NAR, best first, each made when the ones before it failed. */
  async *#sources(found: FoundNarInfo, signal: AbortSignal): AsyncGenerator<NarSource> {
    const { upgrade, upstreams } = this.#options;
    const { storePath, narHash } = found.narInfo;
    const tried = new Set<unknown>();
    for (let at: FoundNarInfo | undefined = found; at !== undefined; ) {
      tried.add(at.upstream);
      if (at.narInfo.narHash === narHash) {
        if (upgrade !== "never") {
          const source = await this.#castoreSource(at, signal);
          if (source !== undefined) yield source;
        }
        const asked = upgrade === "require" ? undefined : await this.#asked(at, { signal });
        if (asked !== undefined && !this.#isWrong(asked, "plain")) yield this.#plainSource(asked);
      }
      const storeHash = storePathHash(storePath);
      at = await upstreams.findNarInfoElsewhere(storeHash, { signal, except: tried });
    }
  }

  /** The narinfo with its URL, which one that a closure brought does not have. */
  async #asked(found: FoundNarInfo, options: CallOptions): Promise<FoundNarInfo | undefined> {
    if (found.narInfo.url !== "") return found;
    const { storePath, narHash } = found.narInfo;
    const lookup = await this.#options.upstreams.findNarInfo(storePathHash(storePath), options);
    return lookup.found?.narInfo.narHash === narHash ? lookup.found : undefined;
  }

  async #castoreSource(found: FoundNarInfo, signal: AbortSignal): Promise<NarSource | undefined> {
    const { narInfo, upstream } = found;
    const mayBePlain = this.#options.upgrade !== "require";
    if (mayBePlain && plainSizeOf(narInfo) <= PLAIN_FILE_BYTES_MAX) return undefined;
    if (this.#isWrong(found, "castore")) return undefined;
    const way = await this.#options.castoreWays.for(upstream, { signal });
    if (way === undefined || !(await way.isUsable({ signal }))) return undefined;
    const { store, metrics } = this.#options;
    return createCastoreNarSource({
      name: `castore at ${way.endpoint.base.href}`,
      narInfo,
      store,
      metadata: way.metadata,
      fetcher: way.fetcher,
      alongside: () => this.#together(upstream),
      plainSize: async () => {
        const asked = mayBePlain ? await this.#asked(found, { signal }) : undefined;
        return asked && plainSizeOf(asked.narInfo);
      },
      onChunk: (from, size) => {
        metrics.chunks.inc({ from });
        metrics.chunkBytes.inc({ from }, size);
      },
      onProven: (pathInfo, stored) => {
        way.worked();
        this.#keep(
          found,
          "castore",
          stored.then(() => pathInfo),
        );
      },
      onFailed: (error, wrong) => {
        way.failed(error);
        this.#failed(found, "castore", error, wrong);
      },
    });
  }

  #plainSource(found: FoundNarInfo): NarSource {
    const { narInfo, upstream } = found;
    return createPlainNarSource({
      name: `NAR at ${upstream.url.href}`,
      narInfo,
      store: this.#options.store,
      download: (signal) => upstream.openNar(narInfo, { signal }),
      onProven: (stored) => this.#keep(found, "plain", stored),
      onFailed: (error, wrong) => this.#failed(found, "plain", error, wrong),
      onNotKept: (error) => {
        this.#options.log(`${narInfo.storePath}: passed on, but not kept: ${messageOf(error)}`);
      },
    });
  }

  /** Paths asked for lately that the same upstream has: their metadata is fetched together. */
  *#together(upstream: FoundNarInfo["upstream"]): Generator<StoreHash> {
    const since = Date.now() - TOGETHER_MS;
    for (const [storeHash, { found, at }] of this.#recent.entries()) {
      if (at < since || found.upstream !== upstream) continue;
      if (plainSizeOf(found.narInfo) > PLAIN_FILE_BYTES_MAX) yield storeHash;
    }
  }

  /** Notes the proven path once its parts are stored. */
  #keep(found: FoundNarInfo, way: NarWay, stored: Promise<PathInfo>): void {
    const { metrics, log } = this.#options;
    const { narHash, narSize, storePath } = found.narInfo;
    metrics.nars.inc({ way });
    metrics.narBytes.inc({ way }, narSize);
    const kept = stored
      .then((pathInfo) => this.#putProven(found, pathInfo))
      .then(
        () => {},
        (error: unknown) => log(`${storePath}: passed on, but not kept: ${messageOf(error)}`),
      )
      .finally(() => this.#storing.delete(narHash));
    this.#storing.set(narHash, kept);
  }

  #failed(found: FoundNarInfo, way: NarWay, error: unknown, wrong: boolean): void {
    const { metrics, log } = this.#options;
    const { storePath } = found.narInfo;
    if (isCastoreError(error, "UNSUPPORTED")) return;
    metrics.sourceFailures.inc({ way, fault: wrong ? "wrong" : "failed" });
    if (wrong) this.#wrong.set(wrongKey(found, way), true);
    log(`${storePath}: ${way} way by ${found.upstream.url.href}: ${messageOf(error)}`);
  }

  #isWrong(found: FoundNarInfo, way: NarWay): boolean {
    return this.#wrong.has(wrongKey(found, way));
  }
}

/** Bytes that the plain NAR costs, at most where the narinfo does not say. */
function plainSizeOf({ fileSize, narSize }: NarInfo): number {
  return fileSize ?? narSize;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function wrongKey({ upstream, narInfo }: FoundNarInfo, way: NarWay): string {
  return `${way} ${upstream.url.href} ${narInfo.storePath}`;
}
