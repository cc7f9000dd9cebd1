import type { CallOptions } from "@castore/castore";
import { type StoreHash, storePathHash } from "../nix/store-path.ts";
import type { PathInfo } from "./path-info.ts";

/**
 * Path infos by store hash. Everything may be called concurrently. Every implementation passes
 * test/path-info-service-suite.ts.
 */
export interface PathInfoService {
  get(storeHash: StoreHash, options?: CallOptions): Promise<PathInfo | undefined>;
  /**
   * Stores `pathInfo`, replacing one of the same store hash; what it names must have been stored
   * before. Resolves, once that is as durable as the service is, to what was stored, which may have
   * more signatures. A service that checks the root rejects INCOMPLETE where something below it is
   * missing and CORRUPT where it is not the root of that NAR.
   */
  put(pathInfo: PathInfo, options?: CallOptions): Promise<PathInfo>;
  /** All path infos, in no particular order; what comes or goes meanwhile may be among them. */
  list(options?: CallOptions): AsyncIterable<PathInfo>;
}

/** Path infos in memory, unchecked, for tests and short-lived servers. */
export function createMemoryPathInfoService(): PathInfoService {
  const stored = new Map<StoreHash, PathInfo>();
  return {
    async get(storeHash, { signal } = {}) {
      signal?.throwIfAborted();
      return stored.get(storeHash);
    },
    async put(pathInfo, { signal } = {}) {
      signal?.throwIfAborted();
      stored.set(storePathHash(pathInfo.storePath), pathInfo);
      return pathInfo;
    },
    async *list({ signal } = {}) {
      for (const pathInfo of [...stored.values()]) {
        signal?.throwIfAborted();
        yield pathInfo;
      }
    },
  };
}
