import { type LocalStore, openLocalStore } from "@castore/castore";
import {
  calculateNar,
  createLocalPathInfoService,
  type LocalPathInfoService,
  TrustedRootKeys,
} from "@castore/nar-bridge";
import { logLine } from "./run-server.ts";
import { defaultStorePath } from "./settings.ts";

/** Most bytes of a store that is filled with what can be fetched again, unless told. */
export const CACHE_BYTES_MAX = 10 * 2 ** 30;

/** For servers: they take leases, so what nobody holds need not stay for long. */
export const UNLEASED_MS = 5_000;

export interface StoreOptions {
  readonly store?: string;
  /** Bytes. Without it nothing is evicted: what was put may be nowhere else. */
  readonly storeMaxSize?: number;
  /** For a process that takes leases: as of LocalStoreOptions. */
  readonly unleasedMs?: number;
  /** No other process uses it: as of LocalStoreOptions. */
  readonly private?: boolean;
  /** NAME:BASE64 of keys whose word for a root counts. */
  readonly trustedRootKey?: readonly string[];
}

export interface OpenStore extends AsyncDisposable {
  readonly store: LocalStore;
  readonly pathInfos: LocalPathInfoService;
}

export function storePathOf({ store }: StoreOptions): string {
  return store ?? defaultStorePath();
}

export async function openStore(options: StoreOptions): Promise<OpenStore> {
  const path = storePathOf(options);
  const { unleasedMs, storeMaxSize: sizeMax, private: isPrivate } = options;
  const store = await openLocalStore({
    ...{ path, create: true, sizeMax, unleasedMs, private: isPrivate },
  });
  const pathInfos = createLocalPathInfoService(store, {
    calculateNar: (node, callOptions) => calculateNar(node, store, callOptions),
    rootKeys: TrustedRootKeys.parse(options.trustedRootKey ?? []),
    onBarred: ({ key, reason }) => {
      logLine(`ROOT KEY ${key} IS BARRED: what it vouched for is not so: ${reason}`);
    },
  });
  return { store, pathInfos, [Symbol.asyncDispose]: () => store.close() };
}

/** As `openStore`, for a command that fetches. */
export function openCache(options: StoreOptions): Promise<OpenStore> {
  return openStore({ storeMaxSize: CACHE_BYTES_MAX, ...options });
}
