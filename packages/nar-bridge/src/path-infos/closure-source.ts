import {
  type CallOptions,
  type ClosureRequest,
  completeRecipe,
  createZstdEncoder,
  type Digest,
  digestOf,
  encodeDirectory,
  encodeRecipe,
  encodeTreeSummary,
  type FileNode,
  isCastoreError,
  type LocalStore,
  type Recipe,
  summarizeTree,
  type TreeSummary,
  walkFiles,
} from "@castore/castore";
import { parseStoreHash, storePathHash } from "../nix/store-path.ts";
import { CLOSURE_PATHS_MAX, type ClosureRecord } from "./closure-stream.ts";
import type { PathInfo } from "./path-info.ts";
import { encodeSignedPathInfo } from "./path-info-codec.ts";
import type { PathInfoService } from "./path-info-service.ts";
import type { RecipeStore } from "./recipe-store.ts";

/** Directories and recipe of fewer bytes are not worth a summary. */
const SUMMARY_BYTES_MIN = 1_024;
/**
 * A summary stands for directories and recipe of more than this part of the NAR: compressed, they
 * are then more than some hundredth of a NAR in xz.
 */
const SUMMARY_NAR_PART = 1 / 512;

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
    const contents = pathInfo && (await collectContents(pathInfo, query, source, sent, options));
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

/**
 * Directories and recipe of a path, but what was sent, or their summary; undefined where they are
 * not all here.
 */
async function collectContents(
  pathInfo: PathInfo,
  { summaries }: ClosureRequest,
  source: ClosureSource,
  sent: Set<Digest>,
  options: CallOptions,
): Promise<ClosureRecord[] | undefined> {
  const { node } = pathInfo;
  if (node.type === "symlink") return [];
  const records: (ClosureRecord & { readonly bytes: Uint8Array })[] = [];
  const fresh: Digest[] = [];
  try {
    if (node.type === "directory") {
      for await (const directory of source.store.directories.getClosure(node.digest, options)) {
        const bytes = encodeDirectory(directory);
        const digest = digestOf(bytes);
        if (sent.has(digest)) continue;
        fresh.push(digest);
        records.push({ kind: "directory", bytes });
      }
    }
    const recipe = await source.recipes.of(pathInfo, options);
    if (!sent.has(node.digest) || node.type === "file") {
      records.push({ kind: "recipe", root: node.digest, bytes: encodeRecipe(recipe) });
    }
    const messages = records.map(({ bytes }) => bytes);
    if (summaries && isLarge(messages, pathInfo)) {
      const summary = await summaryOf(pathInfo, recipe, messages, source, options);
      if (summary !== undefined) return [{ kind: "summary", bytes: encodeTreeSummary(summary) }];
    }
  } catch (error) {
    if (isCastoreError(error, "INCOMPLETE")) return undefined;
    throw error;
  }
  for (const digest of fresh) sent.add(digest);
  return records;
}

function isLarge(messages: readonly Uint8Array[], { narSize }: PathInfo): boolean {
  const bytes = messages.reduce((sum, { byteLength }) => sum + byteLength, 0);
  return bytes > Math.max(SUMMARY_BYTES_MIN, narSize * SUMMARY_NAR_PART);
}

async function summaryOf(
  { node }: PathInfo,
  recipe: Recipe,
  messages: readonly Uint8Array[],
  { store }: ClosureSource,
  options: CallOptions,
): Promise<TreeSummary | undefined> {
  const files: FileNode[] = [];
  const get = (digest: Digest) => store.directories.get(digest, options);
  for await (const file of walkFiles(node, get, options)) files.push(file);
  let metadataBytes = 0;
  for await (const { byteLength } of createZstdEncoder()(messages)) metadataBytes += byteLength;
  return summarizeTree(completeRecipe(recipe, files), metadataBytes);
}
