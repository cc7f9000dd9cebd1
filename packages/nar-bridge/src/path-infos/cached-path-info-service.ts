import {
  type AbsencesOptions,
  createAbsences,
  firstAnswer,
  isCastoreError,
  isRefusal,
  rejectWrite,
  SingleFlight,
} from "@castore/castore";
import { type StoreHash, storePathHash } from "../nix/store-path.ts";
import type { PathInfo } from "./path-info.ts";
import type { PathInfoService } from "./path-info-service.ts";

/**
 * Path infos of `near`, and of `far` once they were copied to near, by one flight each. What near
 * cannot take (full, read-only, or its contents are missing there) is served all the same. put()
 * goes to near alone. That far lacks a path is believed for a second. Both stay the caller's.
 */
export function createCachedPathInfoService(
  near: PathInfoService,
  far: PathInfoService,
  options: AbsencesOptions = {},
): PathInfoService {
  const flights = new SingleFlight<PathInfo | undefined>();
  const absences = createAbsences(options);
  const fill = async (storeHash: StoreHash, signal: AbortSignal) => {
    const found = await far.get(storeHash, { signal });
    if (found === undefined) {
      absences.add(storeHash);
      return undefined;
    }
    try {
      return await near.put(found, { signal });
    } catch (error) {
      if (isRefusal(error) || isCastoreError(error, "INCOMPLETE")) return found;
      throw error;
    }
  };
  return {
    async get(storeHash, call = {}) {
      const held = await near.get(storeHash, call);
      if (held !== undefined || absences.has(storeHash)) return held;
      return await flights.run(storeHash, (signal) => fill(storeHash, signal), call);
    },
    async put(pathInfo, call) {
      const stored = await near.put(pathInfo, call);
      absences.delete(storePathHash(stored.storePath));
      return stored;
    },
    list: (call) => listEachOnce([near, far], call),
  };
}

/**
 * The path infos of several services: the first that has one serves it. One that fails is passed
 * over. Only reads. All stay the caller's.
 */
export function createFirstPathInfoService(services: readonly PathInfoService[]): PathInfoService {
  return {
    get: (storeHash, options = {}) =>
      firstAnswer(services, options.signal, (service) => service.get(storeHash, options)),
    put: rejectWrite,
    list: (options) => listEachOnce(services, options),
  };
}

/** What several services list; of a store hash in several of them, the first. */
async function* listEachOnce(
  services: readonly PathInfoService[],
  options?: Parameters<PathInfoService["list"]>[0],
): AsyncGenerator<PathInfo, void, undefined> {
  const seen = new Set<StoreHash>();
  for (const service of services) {
    for await (const pathInfo of service.list(options)) {
      const storeHash = storePathHash(pathInfo.storePath);
      if (seen.has(storeHash)) continue;
      seen.add(storeHash);
      yield pathInfo;
    }
  }
}
