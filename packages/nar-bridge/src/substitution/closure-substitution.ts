import { type CallOptions, CastoreError, inParallel } from "@castore/castore";
import { leavesFirst } from "../nix/reference-order.ts";
import { type StoreHash, storePathHash } from "../nix/store-path.ts";
import type { PathInfo } from "../path-infos/path-info.ts";
import type { Substituter } from "./substituter.ts";

/** Paths substituted at once: enough to fill requests for chunks, few enough to bound memory. */
const PATHS_PARALLEL = 8;

export interface SubstitutedPath {
  readonly pathInfo: PathInfo;
  /** Whether it was in the store before. */
  readonly isPresent: boolean;
  /** Paths done, this one included, and paths in all. */
  readonly done: number;
  readonly total: number;
}

/**
 * Brings paths, and with `closure` all they refer to, into the local store. Yields each as it is
 * there. Rejects INCOMPLETE, naming the path, where no upstream has one.
 */
export async function* substituteClosure(
  substituter: Substituter,
  query: { readonly storeHashes: readonly StoreHash[]; readonly closure: boolean },
  options: CallOptions = {},
): AsyncGenerator<SubstitutedPath, void, undefined> {
  const storeHashes = query.closure
    ? await findClosure(substituter, query.storeHashes, options)
    : [...new Set(query.storeHashes)];
  if (query.closure) void substituter.fetchEarly(storeHashes, options).catch(() => {});
  const work = (storeHash: StoreHash, signal: AbortSignal) =>
    substituter.substitute(storeHash, { signal });
  let done = 0;
  for await (const result of inParallel(storeHashes, PATHS_PARALLEL, work, options)) {
    yield { ...result, done: ++done, total: storeHashes.length };
  }
}

/** All that `storeHashes` refer to, themselves included, what is referred to first. */
async function findClosure(
  substituter: Substituter,
  storeHashes: readonly StoreHash[],
  options: CallOptions,
): Promise<StoreHash[]> {
  const references = new Map<StoreHash, readonly StoreHash[]>();
  let level = [...new Set(storeHashes)];
  await substituter.loadClosure(level, options);
  const look = async (storeHash: StoreHash, signal: AbortSignal) => {
    const narInfo = await substituter.narInfo(storeHash, { signal });
    if (narInfo === undefined) {
      throw new CastoreError("INCOMPLETE", `${storeHash}: no upstream has a trusted narinfo`);
    }
    return { storeHash, references: narInfo.references.map(storePathHash) };
  };
  while (level.length > 0) {
    const next = new Set<StoreHash>();
    for await (const found of inParallel(level, PATHS_PARALLEL, look, options)) {
      references.set(found.storeHash, found.references);
      for (const reference of found.references) next.add(reference);
    }
    level = [...next].filter((storeHash) => !references.has(storeHash));
  }
  return leavesFirst(storeHashes, references);
}
