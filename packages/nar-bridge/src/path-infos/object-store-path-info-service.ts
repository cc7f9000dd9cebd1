import { CastoreError, type ObjectStore } from "@castore/castore";
import { NIX_STORE_DIR, type StoreDir, storePathHash } from "../nix/store-path.ts";
import type { PathInfo } from "./path-info.ts";
import {
  decodeSignedPathInfo,
  encodeSignedPathInfo,
  PATH_INFO_BYTES_MAX,
} from "./path-info-codec.ts";
import type { PathInfoService } from "./path-info-service.ts";

/**
 * Path infos in an object store, one object for each (docs/object-store.md), unchecked: the last
 * put of a store hash stays. The store stays the caller's.
 */
export function createObjectStorePathInfoService(
  objects: ObjectStore,
  storeDir: StoreDir = NIX_STORE_DIR,
): PathInfoService {
  const prefix = "pathinfo/";
  const get = async (key: string, signal: AbortSignal | undefined) => {
    const bytes = await objects.get(key, { signal, bytesMax: PATH_INFO_BYTES_MAX });
    return bytes === undefined ? undefined : decode(objects, key, bytes, storeDir);
  };
  return {
    get: (storeHash, { signal } = {}) => get(prefix + storeHash, signal),
    async put(pathInfo, { signal } = {}) {
      const key = prefix + storePathHash(pathInfo.storePath);
      await objects.put(key, encodeSignedPathInfo(pathInfo), { signal });
      return pathInfo;
    },
    async *list({ signal } = {}) {
      for await (const { key } of objects.list(prefix, { signal })) {
        const pathInfo = await get(key, signal);
        if (pathInfo !== undefined) yield pathInfo;
      }
    },
  };
}

function decode(
  objects: ObjectStore,
  key: string,
  bytes: Uint8Array,
  storeDir: StoreDir,
): PathInfo {
  const fail = (fault: string, cause?: unknown): never => {
    throw new CastoreError("CORRUPT", `${objects.name}: object ${key}: ${fault}`, { cause });
  };
  try {
    const pathInfo = decodeSignedPathInfo(bytes, storeDir);
    if (key.endsWith(`/${storePathHash(pathInfo.storePath)}`)) return pathInfo;
    return fail(`is the path info of ${pathInfo.storePath}`);
  } catch (cause) {
    if (cause instanceof CastoreError && cause.code !== "INVALID") throw cause;
    return fail("is no path info", cause);
  }
}
