import { type CallOptions, CastoreError, type TransferCost, untilAborted } from "@castore/castore";
import {
  CACHE_INFO_LENGTH_MAX,
  type CacheInfo,
  parseCacheInfo,
  parseUpgrade,
} from "../nix/cache-info.ts";
import { NAR_INFO_BYTES_MAX } from "../nix/nar-info-text.ts";
import type { StoreHash } from "../nix/store-path.ts";
import { admitUrl, displayUrl, parseCacheUrl, type UrlPolicy } from "./admission.ts";
import { type Clock, SYSTEM_CLOCK } from "./clock.ts";
import type { HttpClient } from "./http-client.ts";
import { type HttpResponse, readBody } from "./http-response.ts";
import type { LinkSpeed } from "./link-meter.ts";
import { download } from "./resumable-download.ts";

/** How long an answered nix-cache-info counts. */
export const CACHE_INFO_TTL_MS = 300_000;
/** Longest wait for the headers of a small object. */
export const LOOKUP_TIMEOUT_MS = 5_000;
/** The header that offers an upgrade where clients choke on unknown lines in nix-cache-info. */
export const UPGRADE_HEADER = "castore-upgrade";

const NO_CACHE_INFO: CacheInfo = { wantMassQuery: false, upgrades: [] };

export interface UpstreamOptions {
  readonly http: HttpClient;
  /** http, https or file. A `priority=N` in its query goes before the cache's own, as with Nix. */
  readonly url: string;
  /** Origins that its Upgrade may name besides its own. */
  readonly upgradeOrigins?: readonly string[] | undefined;
  readonly clock?: Clock | undefined;
}

/**
 * A binary cache to read from. Lookups resolve with undefined where the cache does not have the
 * thing (404, 410), reject DENIED for 401 and 403, UNAVAILABLE for 5xx and the like, and with what
 * the HTTP client rejects with.
 */
export interface Upstream {
  /** Without query; the path ends in a slash. */
  readonly url: URL;
  /** For URLs that this cache names. */
  readonly policy: UrlPolicy;
  /** What the user's URL says; goes before what the cache says. */
  readonly priority: number | undefined;
  /**
   * What nix-cache-info says, with the upgrade of the header behind those of the lines; all
   * defaults where there is none. Remembered for CACHE_INFO_TTL_MS; one request for all who wait.
   */
  cacheInfo(options?: CallOptions): Promise<CacheInfo>;
  /** What was measured of the way to it. */
  link(): LinkSpeed;
  narInfoText(storeHash: StoreHash, options?: CallOptions): Promise<string | undefined>;
  /**
   * Something below the cache's URL: `log/…`, `….ls`, `realisations/…`. The answer's status is 200;
   * the caller reads or discards its body. INVALID for a path that leads out of the cache.
   */
  get(path: string, options?: UpstreamGetOptions): Promise<HttpResponse | undefined>;
  /**
   * The file that a narinfo of this cache names, as it is served, from byte `from` on; cuts are
   * mended as far as the server lets them. Opened when it is iterated. Rejects as download() does,
   * and INVALID or DENIED for a URL that is not admitted.
   */
  openNar(narInfo: { readonly url: string }, options?: OpenNarOptions): AsyncIterable<Uint8Array>;
}

export interface UpstreamGetOptions extends CallOptions {
  readonly method?: "GET" | "HEAD" | undefined;
}

export interface OpenNarOptions extends CallOptions {
  readonly from?: number;
  /** Counts what it takes. */
  readonly cost?: TransferCost | undefined;
  /** Told of each interruption that a retry follows. */
  readonly onInterrupted?: (error: CastoreError, position: number) => void;
}

export function createUpstream(options: UpstreamOptions): Upstream {
  return new HttpUpstream(options);
}

class HttpUpstream implements Upstream {
  readonly url: URL;
  readonly policy: UrlPolicy;
  readonly priority: number | undefined;
  readonly #http: HttpClient;
  readonly #clock: Clock;
  #cacheInfo: { readonly value: Promise<CacheInfo>; readonly expires: number } | undefined;

  constructor(options: UpstreamOptions) {
    this.url = parseCacheUrl(options.url);
    this.policy = { base: this.url, upgradeOrigins: options.upgradeOrigins };
    this.priority = parsePriority(new URL(options.url).searchParams.get("priority"));
    this.#http = options.http;
    this.#clock = options.clock ?? SYSTEM_CLOCK;
  }

  async cacheInfo({ signal }: CallOptions = {}): Promise<CacheInfo> {
    const now = this.#clock.now();
    if (this.#cacheInfo === undefined || this.#cacheInfo.expires <= now) {
      // Not with the caller's signal: others may wait for the same answer. Its time is bounded.
      const value = this.#readCacheInfo();
      const known = { value, expires: now + CACHE_INFO_TTL_MS };
      this.#cacheInfo = known;
      value.catch(() => {
        if (this.#cacheInfo === known) this.#cacheInfo = undefined;
      });
    }
    return await untilAborted(this.#cacheInfo.value, signal);
  }

  link(): LinkSpeed {
    return this.#http.link(this.url);
  }

  async narInfoText(storeHash: StoreHash, options?: CallOptions): Promise<string | undefined> {
    const response = await this.get(`${storeHash}.narinfo`, options);
    if (response === undefined) return undefined;
    return Buffer.from(await readBody(response, NAR_INFO_BYTES_MAX)).toString("utf8");
  }

  async get(path: string, options: UpstreamGetOptions = {}): Promise<HttpResponse | undefined> {
    const { method = "GET", signal } = options;
    const response = await this.#http.request(this.#below(path), {
      ...{ policy: this.policy, method, signal, headersTimeoutMs: LOOKUP_TIMEOUT_MS },
    });
    const { status } = response;
    if (status === 200) return response;
    response.discard();
    if (status === 404 || status === 410) return undefined;
    const message = `${method} ${displayUrl(response.url)}: answered ${status}`;
    throw new CastoreError(status === 401 || status === 403 ? "DENIED" : "UNAVAILABLE", message);
  }

  async *openNar(
    narInfo: { readonly url: string },
    options: OpenNarOptions = {},
  ): AsyncIterable<Uint8Array> {
    const url = admitUrl(narInfo.url, "nar", this.policy);
    yield* download(url, { http: this.#http, policy: this.policy, clock: this.#clock, ...options });
  }

  async #readCacheInfo(): Promise<CacheInfo> {
    const response = await this.get("nix-cache-info");
    if (response === undefined) return NO_CACHE_INFO;
    const text = Buffer.from(await readBody(response, CACHE_INFO_LENGTH_MAX)).toString("utf8");
    const info = parseCacheInfo(text);
    const upgrade = parseUpgrade(response.headers[UPGRADE_HEADER] ?? "");
    return upgrade === undefined ? info : { ...info, upgrades: [...info.upgrades, upgrade] };
  }

  #below(path: string): URL {
    // "./": a colon in the first part of a path would make it a scheme.
    const url = admitUrl(`./${path}`, "nar", this.policy);
    if (url.origin === this.url.origin && url.pathname.startsWith(this.url.pathname)) return url;
    throw new CastoreError("INVALID", `${path}: leads out of ${this.url.href}`);
  }
}

function parsePriority(text: string | null): number | undefined {
  if (text === null) return undefined;
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new CastoreError("INVALID", `cache URL: priority=${text} is no number`);
}
