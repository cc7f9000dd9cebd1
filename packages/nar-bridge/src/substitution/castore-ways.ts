import type { CallOptions, DirectoryService } from "@castore/castore";
import type { Log } from "../log.ts";
import type { Upgrade } from "../nix/cache-info.ts";
import type { StoreDir } from "../nix/store-path.ts";
import { admitUrl, parseCacheUrl } from "../upstream/admission.ts";
import type { HttpClient } from "../upstream/http-client.ts";
import type { Upstream } from "../upstream/upstream.ts";
import { createCastoreEndpoint } from "./castore-endpoint.ts";
import { CastoreWay } from "./castore-way.ts";

/** The protocol that this client speaks, as nix-cache-info names it. */
export const CASTORE_PROTOCOL = "castore/1";

export interface CastoreWaysOptions {
  readonly http: HttpClient;
  readonly directories: DirectoryService;
  readonly storeDir: StoreDir;
  /** Castore servers for caches that do not name one: URL of the cache → URL of the server. */
  readonly companions: ReadonlyMap<string, string>;
  readonly log: Log;
  /** Told when a castore server begins to be left alone after a failure. */
  readonly onRest?: ((server: URL) => void) | undefined;
}

/** Finds the castore server for each upstream: its companion, or the one that it advertises. */
export class CastoreWays implements Disposable {
  readonly #options: CastoreWaysOptions;
  readonly #companions: ReadonlyMap<string, URL>;
  readonly #ways = new Map<string, CastoreWay>();
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
    for (const way of this.#ways.values()) way[Symbol.dispose]();
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
      const { http, storeDir, directories } = this.#options;
      // A companion answers for itself: credentials and redirects are those of its own origin.
      const policy = { ...upstream.policy, base };
      const endpoint = createCastoreEndpoint({ http, base, policy, storeDir });
      way = new CastoreWay({
        endpoint,
        directories,
        onRest: (ms, reason) => {
          const why = reason instanceof Error ? reason.message : String(reason);
          this.#options.log(`castore at ${base.href}: is left alone for ${ms / 1000} s: ${why}`);
          this.#options.onRest?.(base);
        },
      });
      this.#ways.set(base.href, way);
    }
    return way;
  }
}
