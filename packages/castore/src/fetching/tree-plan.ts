import { walkFiles } from "../files/file-walk.ts";
import type { Digest } from "../model/digest.ts";
import type { FileNode, Node } from "../model/node.ts";
import {
  type BlobRecipe,
  completeRecipe,
  type Recipe,
  type RecipeChunk,
} from "../recipes/recipe.ts";
import type { BlobService } from "../services/blob-service.ts";
import type { ChunkIndex } from "../services/chunk-index.ts";
import type { DirectoryService } from "../services/directory-service.ts";
import type { CallOptions } from "../streams/byte-source.ts";

/** Digests asked of the chunk index at once. */
const LOOKUP_BATCH = 1_024;

/** What it takes to have all files below a root, given what is at hand. */
export interface TreePlan {
  /** Blobs not at hand, by digest. Their order is that in which a NAR needs them. */
  readonly blobs: ReadonlyMap<Digest, BlobRecipe>;
  /** Chunks that must be fetched, in the order of need; a chunk stands here once for each use. */
  readonly missing: readonly RecipeChunk[];
  /** Bytes of the distinct files below the root. */
  readonly fileBytes: number;
  /** Bytes of the distinct missing chunks, as they are. */
  readonly missingBytes: number;
  /**
   * Bytes of the distinct missing chunks on the wire, as far as the recipe says, else as they are.
   */
  readonly wireBytes: number;
  /** Distinct missing chunks. */
  readonly missingCount: number;
}

/** What is at hand. */
export interface NearServices {
  readonly blobs: BlobService;
  readonly directories: DirectoryService;
  readonly chunks: ChunkIndex;
}

const NO_RECIPE: Recipe = { references: [], blobs: [], plainWireSizes: [] };

/**
 * Compares the files below `root` with the blobs and chunks at hand. Without a recipe each file is
 * one chunk. Rejects INCOMPLETE where a directory below `root` is missing, INVALID where the recipe
 * is not one for these files.
 */
export async function planTree(
  root: Node,
  recipe: Recipe | undefined,
  near: NearServices,
  options: CallOptions = {},
): Promise<TreePlan> {
  const files: FileNode[] = [];
  const get = (digest: Digest) => near.directories.get(digest, options);
  for await (const file of walkFiles(root, get, options)) files.push(file);
  const blobs = new Map<Digest, BlobRecipe>();
  for (const blob of completeRecipe(recipe ?? NO_RECIPE, files)) {
    if (!(await near.blobs.has(blob.digest, options))) blobs.set(blob.digest, blob);
  }
  const uses = [...blobs.values()].flatMap(({ chunks }) => chunks);
  const missing = await notAtHand(uses, near.chunks, options);
  const distinct = new Map(missing.map((chunk) => [chunk.digest, chunk]));
  let missingBytes = 0;
  let wireBytes = 0;
  for (const { size, wireSize } of distinct.values()) {
    missingBytes += size;
    wireBytes += wireSize ?? size;
  }
  const fileBytes = files.reduce((sum, { size }) => sum + size, 0);
  return { blobs, missing, fileBytes, missingBytes, wireBytes, missingCount: distinct.size };
}

async function notAtHand(
  chunks: readonly RecipeChunk[],
  index: ChunkIndex,
  options: CallOptions,
): Promise<RecipeChunk[]> {
  const missing: RecipeChunk[] = [];
  for (let at = 0; at < chunks.length; at += LOOKUP_BATCH) {
    const batch = chunks.slice(at, at + LOOKUP_BATCH);
    const found = await index.has(
      batch.map(({ digest }) => digest),
      options,
    );
    batch.forEach((chunk, i) => {
      if (found[i] !== true) missing.push(chunk);
    });
  }
  return missing;
}
