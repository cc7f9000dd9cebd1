import {
  type CallOptions,
  type ClosureRequest,
  type Digest,
  digestOf,
  encodeDirectory,
  encodeRecipe,
  isCastoreError,
  type LocalStore,
} from "@castore/castore";
import { parseStoreHash, storePathHash } from "../nix/store-path.ts";
import { CLOSURE_PATHS_MAX, type ClosureRecord } from "./closure-stream.ts";
import type { PathInfo } from "./path-info.ts";
import { encodeSignedPathInfo } from "./path-info-codec.ts";
import type { PathInfoService } from "./path-info-service.ts";
import type { RecipeStore } from "./recipe-store.ts";

export interface ClosureSource {
  readonly store: LocalStore;
  readonly pathInfos: Pick<PathInfoService, "get">;
  readonly recipes: Pick<RecipeStore, "of">;
}

/**
 * The records that answer `query` (docs/protocol.md, section 4). A path whose contents are not
 * whole here is answered as absent.
 */
export async function* collectClosure(
  query: ClosureRequest,
  source: ClosureSource,
  options: CallOptions = {},
): AsyncGenerator<ClosureRecord, void, undefined> {
  const queue = query.wanted.map(parseStoreHash);
  const met = new Set<string>([...query.known, ...queue]);
  const sent = new Set<Digest>();
  let paths = 0;
  for (let storeHash = queue.shift(); storeHash !== undefined; storeHash = queue.shift()) {
    options.signal?.throwIfAborted();
    if (paths === CLOSURE_PATHS_MAX) {
      yield { kind: "leftOut", storeHash };
      continue;
    }
    const pathInfo = await source.pathInfos.get(storeHash, options);
    const contents = pathInfo && (await collectContents(pathInfo, source, sent, options));
    if (pathInfo === undefined || contents === undefined) {
      yield { kind: "absent", storeHash };
      continue;
    }
    paths++;
    yield { kind: "pathInfo", bytes: encodeSignedPathInfo(pathInfo) };
    yield* contents;
    if (!query.follow) continue;
    for (const reference of pathInfo.references.map(storePathHash)) {
      if (!met.has(reference)) queue.push(reference);
      met.add(reference);
    }
  }
}

/** Directories and recipe of a path, but what was sent; undefined where they are not all here. */
async function collectContents(
  pathInfo: PathInfo,
  { store, recipes }: ClosureSource,
  sent: Set<Digest>,
  options: CallOptions,
): Promise<ClosureRecord[] | undefined> {
  const { node } = pathInfo;
  if (node.type === "symlink") return [];
  const records: ClosureRecord[] = [];
  const fresh: Digest[] = [];
  try {
    if (node.type === "directory") {
      for await (const directory of store.directories.getClosure(node.digest, options)) {
        const bytes = encodeDirectory(directory);
        const digest = digestOf(bytes);
        if (sent.has(digest)) continue;
        fresh.push(digest);
        records.push({ kind: "directory", bytes });
      }
    }
    const recipe = await recipes.of(pathInfo, options);
    if (!sent.has(node.digest) || node.type === "file") {
      records.push({ kind: "recipe", root: node.digest, bytes: encodeRecipe(recipe) });
    }
  } catch (error) {
    if (isCastoreError(error, "INCOMPLETE")) return undefined;
    throw error;
  }
  for (const digest of fresh) sent.add(digest);
  return records;
}
