import { CastoreError } from "../castore-error.ts";
import { CHUNK_SIZES } from "../chunking/chunker.ts";
import type { Digest } from "../model/digest.ts";
import type { FileNode } from "../model/node.ts";
import type { ChunkMeta } from "../services/blob-service.ts";
import type { Occurrence } from "./normal-form.ts";

/** Most files that a recipe lists, and most that it gives the wire size of. */
export const RECIPE_FILES_MAX = 1 << 20;
/** Most chunks in a recipe: about 64 GiB of files. */
export const RECIPE_CHUNKS_MAX = 1 << 18;
/** Most occurrences in a recipe. */
export const RECIPE_OCCURRENCES_MAX = 1 << 20;

/** A chunk of a normal form, and what it costs to fetch. */
export interface RecipeChunk extends ChunkMeta {
  /** Bytes in which the server holds the chunk; undefined where it does not say. */
  readonly wireSize: number | undefined;
}

/** How one blob is made: the chunks of its normal form, and where references go back into it. */
export interface BlobRecipe {
  readonly digest: Digest;
  readonly size: number;
  readonly chunks: readonly RecipeChunk[];
  readonly occurrences: readonly Occurrence[];
}

/**
 * How the files below a root are made of chunks. It is a claim of whoever made it: each chunk is
 * checked against its digest, and each blob against the digest that the directory names.
 */
export interface Recipe {
  /** 32-character hash parts that occurrences refer to, ascending, each used. */
  readonly references: readonly string[];
  /**
   * The blobs of more than one chunk or with an occurrence. Blobs stand in the order in which a
   * walk in name order, depth first, meets them; each once; the empty blob not at all.
   */
  readonly blobs: readonly BlobRecipe[];
  /** Wire sizes of all other blobs, in the same order; empty where the server does not say. */
  readonly plainWireSizes: readonly number[];
}

/**
 * The recipe of each of `files`, which are the distinct files below the root as `walkFiles` gives
 * them. Rejects INVALID where the recipe does not fit them.
 */
export function completeRecipe(recipe: Recipe, files: Iterable<FileNode>): BlobRecipe[] {
  const listed = new Map(recipe.blobs.map((blob) => [blob.digest, blob]));
  const complete: BlobRecipe[] = [];
  let plain = 0;
  for (const { digest, size } of files) {
    const blob = listed.get(digest);
    if (blob === undefined) {
      if (size > CHUNK_SIZES.max) throw misfit(`blob ${digest} of ${size} bytes is not listed`);
      const wireSize = recipe.plainWireSizes[plain++];
      complete.push({ digest, size, chunks: [{ digest, size, wireSize }], occurrences: [] });
    } else {
      if (blob.size !== size) throw misfit(`blob ${digest}: ${blob.size} bytes, want ${size}`);
      listed.delete(digest);
      complete.push(blob);
    }
  }
  for (const digest of listed.keys()) throw misfit(`blob ${digest} is not below the root`);
  if (recipe.plainWireSizes.length > 0 && recipe.plainWireSizes.length !== plain) {
    throw misfit(`${recipe.plainWireSizes.length} wire sizes for ${plain} blobs`);
  }
  return complete;
}

function misfit(fault: string): CastoreError {
  return new CastoreError("INVALID", `recipe: ${fault}`);
}
