import { readFile } from "node:fs/promises";
import { CastoreError, systemCodeOf } from "@castore/castore";
import {
  BridgeMetrics,
  CastoreWays,
  createHttpClient,
  createUpstream,
  createUpstreamSet,
  type HttpClient,
  type Log,
  NIX_STORE_DIR,
  netrcEntryFor,
  openObjectStoreHttpClient,
  parseNetrc,
  type RestEvent,
  readNixConfig,
  type StoreDir,
  Substituter,
  TrustedKeys,
  type UpgradeMode,
  type Upstream,
  type UpstreamSet,
} from "@castore/nar-bridge";
import type { OpenStore } from "./local-store.ts";

/** The key of cache.nixos.org, which is the upstream unless another is named. */
export const DEFAULT_UPSTREAM = "https://cache.nixos.org";
export const DEFAULT_KEY = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
/** Longest wait for what the upstreams say of themselves before the bridge starts. */
const GREETING_MS_MAX = 2_000;

export interface UpstreamOptions {
  readonly upstream?: readonly string[];
  readonly trustedPublicKey?: readonly string[];
  readonly castoreFor?: readonly string[];
  readonly upgrade?: UpgradeMode;
  readonly upgradeOrigins?: readonly string[];
  readonly fromNixConfig?: boolean;
  /** The longest that an upstream, or its server, is left alone after it failed. */
  readonly restMsMax?: number;
}

export interface SubstituterStack extends AsyncDisposable {
  readonly http: HttpClient;
  /** Shared by all upstreams. */
  readonly storeDir: StoreDir;
  readonly upstreams: UpstreamSet;
  readonly substituter: Substituter;
  readonly metrics: BridgeMetrics;
  readonly trustedKeys: TrustedKeys;
  /** Bytes of bodies that came from upstreams so far. */
  received(): number;
}

/** The substituter that `options` describe, over an open store. */
export async function openSubstituter(
  { store, pathInfos }: OpenStore,
  options: UpstreamOptions,
  log: Log,
): Promise<SubstituterStack> {
  const { urls, keys, netrcFile } = await chosenUpstreams(options);
  const netrc = parseNetrc(await readIfThere(netrcFile));
  const metrics = new BridgeMetrics();
  let received = 0;
  const client = createHttpClient({
    credentialsFor: ({ hostname }) => {
      const entry = netrcEntryFor(netrc, hostname);
      return entry && { user: entry.login ?? "", password: entry.password ?? "" };
    },
    hooks: {
      onRequest: ({ host }) => metrics.upstreamRequests.inc({ host }),
      onBytes: ({ host }, bytes) => {
        received += bytes;
        metrics.upstreamBytes.inc({ host }, bytes);
      },
    },
  });
  const http = await openObjectStoreHttpClient(client, urls);
  const trustedKeys = TrustedKeys.parse(keys);
  const { upgradeOrigins } = options;
  const named = urls.map((url) => createUpstream({ http, url, upgradeOrigins }));
  const { storeDir, sharing } = await sharedStoreDir(named, log);
  const upstreams = createUpstreamSet({
    upstreams: sharing,
    accept: (narInfo) => trustedKeys.trusts(narInfo) !== undefined || "no trusted signature",
    storeDir,
    restMsMax: options.restMsMax,
    onRest: ({ url }, event) => log(`${url.href}: ${describeRest(event)}`),
  });
  const castoreWays = new CastoreWays({
    http,
    store,
    storeDir,
    companions: parseCompanions(options.castoreFor ?? []),
    log,
    onRest: ({ host }) => metrics.castoreRests.inc({ host }),
    restMsMax: options.restMsMax,
    onTransfer: ({ host }, { requests, bytes }) => {
      received += bytes;
      metrics.upstreamRequests.inc({ host }, requests);
      metrics.upstreamBytes.inc({ host }, bytes);
    },
  });
  const substituter = new Substituter({
    store,
    pathInfos,
    upstreams,
    trustedKeys,
    upgrade: options.upgrade ?? "auto",
    castoreWays,
    metrics,
    log,
  });
  const close = async () => {
    castoreWays[Symbol.dispose]();
    await substituter[Symbol.asyncDispose]();
    await http.close();
  };
  const parts = { http, storeDir, upstreams, substituter, metrics, trustedKeys };
  return { ...parts, received: () => received, [Symbol.asyncDispose]: close };
}

/**
 * The StoreDir of the first upstream that tells one, and the upstreams that may have it: all but
 * those that tell another. Nobody waits long for one that is down.
 */
async function sharedStoreDir(
  upstreams: readonly Upstream[],
  log: Log,
): Promise<{ readonly storeDir: StoreDir; readonly sharing: readonly Upstream[] }> {
  const signal = AbortSignal.timeout(GREETING_MS_MAX);
  const infos = await Promise.allSettled(upstreams.map((it) => it.cacheInfo({ signal })));
  const told = infos.map((info) => (info.status === "fulfilled" ? info.value.storeDir : undefined));
  const storeDir = told.find((dir) => dir !== undefined) ?? NIX_STORE_DIR;
  const sharing = upstreams.filter(({ url }, index) => {
    const other = told[index];
    if (other === undefined || other === storeDir) return true;
    log(`${url.href}: is left out, its StoreDir is ${other}, not ${storeDir}`);
    return false;
  });
  return { storeDir, sharing };
}

function describeRest(event: RestEvent): string {
  if (event.kind === "answers") return "answers again";
  return `is left alone for ${event.ms / 1000} s: ${event.reason}`;
}

/** What the command line names, else what nix.conf does where asked for, else cache.nixos.org. */
async function chosenUpstreams(options: UpstreamOptions): Promise<{
  readonly urls: readonly string[];
  readonly keys: readonly string[];
  readonly netrcFile: string;
}> {
  const { upstream = [], trustedPublicKey = [] } = options;
  if (options.fromNixConfig === true) {
    const { substituters, trustedPublicKeys, netrcFile } = await readNixConfig(process.env);
    // The bridge itself stands in nix.conf, too: it must not ask itself.
    const others = substituters.filter((url) => !isLoopback(url));
    const urls = [...upstream, ...others];
    if (urls.length === 0) {
      throw new CastoreError("INVALID", "--from-nix-config: nix.conf names no other substituter");
    }
    return { urls, keys: [...trustedPublicKey, ...trustedPublicKeys], netrcFile };
  }
  const netrcFile = process.env.NETRC ?? "/etc/nix/netrc";
  if (upstream.length > 0) return { urls: upstream, keys: trustedPublicKey, netrcFile };
  return { urls: [DEFAULT_UPSTREAM], keys: [DEFAULT_KEY, ...trustedPublicKey], netrcFile };
}

function isLoopback(url: string): boolean {
  if (!URL.canParse(url)) return false;
  const { hostname } = new URL(url);
  return hostname === "localhost" || hostname === "[::1]" || hostname.startsWith("127.");
}

/** A file's text; "" where it is not there. */
export async function readIfThere(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    if (systemCodeOf(cause) === "ENOENT") return "";
    throw new CastoreError("INVALID", `${path}: cannot be read: ${String(cause)}`, { cause });
  }
}

/** Parses UPSTREAM=URL of --castore-for. */
function parseCompanions(texts: readonly string[]): Map<string, string> {
  return new Map(
    texts.map((text) => {
      const equals = text.indexOf("=", text.indexOf("://"));
      if (equals > 0) return [text.slice(0, equals), text.slice(equals + 1)];
      throw new CastoreError("INVALID", `--castore-for ${text}: want UPSTREAM=URL`);
    }),
  );
}
