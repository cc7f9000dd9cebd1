import { type CallOptions, type LocalStore, messageOf, type TransferCost } from "@castore/castore";
import type { Log } from "../log.ts";
import type { Upgrade } from "../nix/cache-info.ts";
import { parseSnixNarUrl } from "../nix/cache-url.ts";
import type { StoreDir } from "../nix/store-path.ts";
import { admitUrl, parseCacheUrl } from "../upstream/admission.ts";
import { caFileOf, type Environment } from "../upstream/ca-certificates.ts";
import type { HttpClient } from "../upstream/http-client.ts";
import type { Upstream } from "../upstream/upstream.ts";
import type { FoundNarInfo } from "../upstream/upstream-set.ts";
import { createCastoreEndpoint } from "./castore-endpoint.ts";
import { CastoreWay } from "./castore-way.ts";
import type { ContentsServer } from "./contents-server.ts";
import { SnixWay } from "./snix-way.ts";

/** The protocol that this client speaks, as nix-cache-info names it. */
export const CASTORE_PROTOCOL = "castore/1";

export interface CastoreWaysOptions {
  readonly http: HttpClient;
  readonly store: Pick<LocalStore, "blobs" | "chunks" | "directories">;
  /** For certificates; process.env by default. */
  readonly environment?: Environment | undefined;
  readonly grpcConnectMs?: number | undefined;
  readonly storeDir: StoreDir;
  /** Castore servers for caches that do not name one: URL of the cache → URL of the server. */
  readonly companions: ReadonlyMap<string, string>;
  readonly log: Log;
  /** Told of what came over gRPC; what comes over HTTP is told by the HTTP client. */
  readonly onTransfer?: ((server: URL, cost: TransferCost) => void) | undefined;
  /** Told when a castore server begins to be left alone after a failure. */
  readonly onRest?: ((server: URL) => void) | undefined;
  /** The longest that a server that failed is left alone. Default 10 min. */
  readonly restMsMax?: number | undefined;
}

/** Finds the castore server for each upstream: its companion, or the one that it advertises. */
export class CastoreWays implements Disposable {
  readonly #options: CastoreWaysOptions;
  readonly #companions: ReadonlyMap<string, URL>;
  readonly #ways = new Map<string, CastoreWay>();
  readonly #snixWays = new Map<string, SnixWay>();
  readonly #refused = new Set<string>();

  /** Rejects INVALID for a companion that is no URL of a cache. */
  constructor(options: CastoreWaysOptions) {
    this.#options = options;
    this.#companions = new Map(
      [...options.companions].map(([upstream, base]) => [
        parseCacheUrl(upstream).href,
        parseCacheUrl(base),
      ]),
    );
  }

  /** The servers of the path's contents, best first: castore/1, and snix's gRPC. */
  async *servers(
    { narInfo, upstream }: FoundNarInfo,
    options: CallOptions = {},
  ): AsyncGenerator<ContentsServer, void, undefined> {
    const castore = await this.for(upstream, options);
    if (castore !== undefined) yield castore;
    const snix = parseSnixNarUrl(narInfo.url) && this.#snix(upstream);
    if (snix !== undefined) yield snix;
  }

  /** The way for what `upstream` has; undefined where it offers none that is admitted. */
  async for(upstream: Upstream, options: CallOptions = {}): Promise<CastoreWay | undefined> {
    const companion = this.#companions.get(upstream.url.href);
    if (companion !== undefined) return this.#way(companion, upstream);
    const offer = await this.#offer(upstream, options);
    if (offer === undefined) return undefined;
    try {
      const base = admitUrl(offer.url, "upgrade", upstream.policy);
      if (!base.pathname.endsWith("/")) base.pathname += "/";
      return this.#way(base, upstream);
    } catch (error) {
      const key = `${upstream.url.href} ${offer.url}`;
      if (!this.#refused.has(key)) this.#options.log(`${upstream.url.href}: ${String(error)}`);
      this.#refused.add(key);
      return undefined;
    }
  }

  [Symbol.dispose](): void {
    for (const way of [...this.#ways.values(), ...this.#snixWays.values()]) way[Symbol.dispose]();
  }

  async #offer(upstream: Upstream, options: CallOptions): Promise<Upgrade | undefined> {
    try {
      const { upgrades } = await upstream.cacheInfo(options);
      return upgrades.find(({ protocol }) => protocol === CASTORE_PROTOCOL);
    } catch (error) {
      options.signal?.throwIfAborted();
      this.#options.log(`${upstream.url.href}nix-cache-info: ${String(error)}`);
      return undefined;
    }
  }

  #way(base: URL, upstream: Upstream): CastoreWay {
    let way = this.#ways.get(base.href);
    if (way === undefined) {
      const { http, storeDir, store } = this.#options;
      // A companion answers for itself: credentials and redirects are those of its own origin.
      const policy = { ...upstream.policy, base };
      const endpoint = createCastoreEndpoint({ http, base, policy, storeDir });
      way = new CastoreWay({
        endpoint,
        store,
        restMsMax: this.#options.restMsMax,
        onRest: (ms, reason) => this.#rests(`castore at ${base.href}`, base, ms, reason),
      });
      this.#ways.set(base.href, way);
    }
    return way;
  }

  /** gRPC at the origin of the cache, which therefore needs no word of the user's. */
  #snix({ url: { origin, protocol }, url }: Upstream): SnixWay | undefined {
    if (protocol !== "http:" && protocol !== "https:") return undefined;
    const known = this.#snixWays.get(origin);
    if (known !== undefined) return known;
    const { http, store, environment, grpcConnectMs, onTransfer } = this.#options;
    const way = new SnixWay({
      origin: url,
      store,
      caPath: caFileOf(environment),
      connectMs: grpcConnectMs,
      link: () => http.link(url),
      onTransfer: (cost) => onTransfer?.(url, cost),
      restMsMax: this.#options.restMsMax,
      onRest: (ms, reason) => this.#rests(`gRPC at ${origin}`, url, ms, reason),
    });
    this.#snixWays.set(origin, way);
    return way;
  }

  #rests(name: string, server: URL, ms: number, reason: unknown): void {
    const why = messageOf(reason);
    this.#options.log(`${name}: is left alone for ${ms / 1000} s: ${why}`);
    this.#options.onRest?.(server);
  }
}
