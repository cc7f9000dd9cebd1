import { childrenFirst, completeClosure } from "../model/closure-order.ts";
import type { Digest } from "../model/digest.ts";
import type { Directory } from "../model/directory.ts";
import { encodedDirectoryOf } from "../model/directory-closure.ts";
import type { DirectoryService } from "../services/directory-service.ts";
import { SingleFlight } from "../services/single-flight.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import { type AbsencesOptions, createAbsences } from "./absences.ts";
import { isRefusal } from "./cached-blob-service.ts";

/** What became of a closure that near did not have: where it can be read now. */
type Fill = DirectoryService | undefined;

/**
 * Directories of `near`, and of `far` once their whole closures were copied to near, by one flight
 * per root; so each directory of a closure is found, even where far finds only roots. Where near
 * refuses (full, or read-only) far is read directly. putClosure() goes to near alone. That far
 * lacks a directory is believed for a second. Both stay the caller's.
 */
export function createCachedDirectoryService(
  near: DirectoryService,
  far: DirectoryService,
  options: AbsencesOptions = {},
): DirectoryService {
  const flights = new SingleFlight<Fill>();
  const absences = createAbsences(options);
  const fill = async (root: Digest, signal: AbortSignal): Promise<Fill> => {
    const closure = new Map<Digest, Directory>();
    for await (const directory of far.getClosure(root, { signal })) {
      closure.set(encodedDirectoryOf(directory).digest, directory);
    }
    if (closure.size === 0) {
      absences.add(root);
      return undefined;
    }
    try {
      await near.putClosure(childrenFirst(root, closure), { signal });
      return near;
    } catch (error) {
      if (!isRefusal(error)) throw error;
      return far;
    }
  };
  const find = async (root: Digest, call: CallOptions): Promise<Fill> =>
    absences.has(root) ? undefined : flights.run(root, (signal) => fill(root, signal), call);
  const getClosure: DirectoryService["getClosure"] = async function* (root, call = {}) {
    const held = await near.get(root, call);
    const service = held === undefined ? await find(root, call) : near;
    if (service !== undefined) yield* service.getClosure(root, call);
  };
  return {
    async get(digest, call = {}) {
      const held = await near.get(digest, call);
      return held ?? (await (await find(digest, call))?.get(digest, call));
    },
    getClosure,
    async putClosure(directories, call = {}) {
      const stored = (root: Digest) => getClosure(root, call);
      const root = await near.putClosure(completeClosure(stored, directories, call), call);
      absences.delete(root);
      return root;
    },
  };
}
