import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type LocalStore, openLocalStore } from "@castore/castore";
import { calculateNar } from "../src/nar/nar-render.ts";
import type { TrustedRootKeys } from "../src/nix/signed-root.ts";
import { NIX_STORE_DIR } from "../src/nix/store-path.ts";
import { TrustedKeys } from "../src/nix/trusted-keys.ts";
import {
  createLocalPathInfoService,
  type LocalPathInfoService,
} from "../src/path-infos/local-path-info-service.ts";
import { createBridgeServer } from "../src/server/bridge-server.ts";
import { listen } from "../src/server/http-server.ts";
import { BridgeMetrics } from "../src/substitution/bridge-metrics.ts";
import { CastoreWays } from "../src/substitution/castore-ways.ts";
import type { DeliveryLimits } from "../src/substitution/nar-delivery.ts";
import type { UpgradeMode } from "../src/substitution/nar-sources.ts";
import { Substituter } from "../src/substitution/substituter.ts";
import type { UrlPolicy } from "../src/upstream/admission.ts";
import { createHttpClient } from "../src/upstream/http-client.ts";
import { createUpstream } from "../src/upstream/upstream.ts";
import { createUpstreamSet } from "../src/upstream/upstream-set.ts";
import { SECRET_KEY } from "./path-fixture.ts";

export interface BridgeOptions {
  readonly upstreams: readonly string[];
  readonly keys?: readonly string[];
  readonly rootKeys?: TrustedRootKeys;
  readonly upgrade?: UpgradeMode;
  readonly companions?: ReadonlyMap<string, string>;
  readonly upgradeOrigins?: UrlPolicy["upgradeOrigins"];
  readonly delivery?: DeliveryLimits;
  readonly stallTimeoutMs?: number;
  readonly hedgeMs?: number;
  readonly grpcConnectMs?: number;
  /** The store's directory, which the caller removes; a temporary one by default. */
  readonly directory?: string;
  /** The store as the bridge sees it. */
  readonly wrap?: (store: LocalStore) => LocalStore;
}

/** A bridge in this process, over a store of its own. */
export interface Bridge extends AsyncDisposable {
  /** Without a slash at its end. */
  readonly url: string;
  readonly store: LocalStore;
  readonly pathInfos: LocalPathInfoService;
  readonly substituter: Substituter;
  readonly metrics: BridgeMetrics;
  readonly trustedKeys: TrustedKeys;
  readonly log: string[];
  metric(name: string, labels?: Readonly<Record<string, string>>): Promise<number>;
}

export async function startBridge(options: BridgeOptions): Promise<Bridge> {
  const directory = options.directory ?? mkdtempSync(join(tmpdir(), "castore-bridge-"));
  const opened = await openLocalStore({ path: directory, create: true });
  const store = options.wrap?.(opened) ?? opened;
  const pathInfos = createLocalPathInfoService(store, {
    calculateNar: (node, callOptions) => calculateNar(node, store, callOptions),
    rootKeys: options.rootKeys,
    onBarred: ({ key, reason }) => note(`barred ${key}: ${reason}`),
  });
  const log: string[] = [];
  const note = (line: string) => void log.push(line);
  const metrics = new BridgeMetrics();
  const { stallTimeoutMs, hedgeMs, upgradeOrigins } = options;
  const http = createHttpClient({
    environment: {},
    ...(stallTimeoutMs === undefined ? {} : { stallTimeoutMs, headersTimeoutMs: stallTimeoutMs }),
  });
  const trustedKeys = TrustedKeys.parse(options.keys ?? [SECRET_KEY.publicKey.text]);
  const upstreams = createUpstreamSet({
    upstreams: options.upstreams.map((url) => createUpstream({ http, url, upgradeOrigins })),
    accept: (narInfo) => trustedKeys.trusts(narInfo) !== undefined || "no trusted signature",
    hedgeMs,
  });
  const companions = options.companions ?? new Map();
  const castoreWays = new CastoreWays({
    ...{ http, store, storeDir: NIX_STORE_DIR, companions, log: note },
    grpcConnectMs: options.grpcConnectMs,
  });
  const substituter = new Substituter({
    ...{ store, pathInfos, upstreams, trustedKeys, castoreWays, metrics, log: note },
    upgrade: options.upgrade ?? "auto",
    delivery: options.delivery,
  });
  const server = createBridgeServer({
    ...{ substituter, upstreams, storeDir: NIX_STORE_DIR, metrics, log: note },
  });
  const url = await listen(server, { host: "127.0.0.1", port: 0 });
  return {
    ...{ url, store, pathInfos, substituter, metrics, trustedKeys, log },
    async metric(name, labels = {}) {
      const metric = await metrics.registry.getSingleMetric(name)?.get();
      const isMeant = (has: object) =>
        Object.entries(labels).every(([key, value]) => Reflect.get(has, key) === value);
      return (metric?.values ?? [])
        .filter((value) => isMeant(value.labels))
        .reduce((sum, { value }) => sum + value, 0);
    },
    async [Symbol.asyncDispose]() {
      await server.close();
      castoreWays[Symbol.dispose]();
      await substituter[Symbol.asyncDispose]();
      await http.close();
      await opened.close();
      if (options.directory === undefined) rmSync(directory, { recursive: true, force: true });
    },
  };
}
