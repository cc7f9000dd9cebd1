import { CastoreError } from "../castore-error.ts";
import { walkFiles } from "../files/file-walk.ts";
import type { FileNode, Node } from "../model/node.ts";
import type { BlobReader, BlobService, ChunkMeta } from "../services/blob-service.ts";
import type { DirectoryService } from "../services/directory-service.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import { inParallel } from "../streams/parallel.ts";
import { type BlobAnalysis, createBlobAnalyzer } from "./blob-analyzer.ts";
import { createNormalForm, type NormalForm } from "./normal-form.ts";
import type { BlobRecipe, Recipe, RecipeChunk } from "./recipe.ts";

/** Blobs that are read ahead of the one whose turn it is. */
const BLOBS_IN_PARALLEL = 4;

export interface RecipeSource {
  readonly directories: DirectoryService;
  readonly blobs: BlobService;
  /** In how many bytes the chunk of a normal form is sent; undefined where that is not known. */
  wireSize?(chunk: ChunkMeta): Promise<number | undefined>;
  /** What is already known of a blob's normal form for these references. */
  analysis?(file: FileNode, references: readonly string[]): Promise<BlobAnalysis | undefined>;
}

/**
 * The recipe of `root` for `references`, 32-character hash parts of which those that occur are
 * listed. Reads every blob whose analysis the source does not know. Rejects INCOMPLETE where a
 * directory or blob is missing, CORRUPT where one is not what its digest says.
 */
export async function buildRecipe(
  root: Node,
  references: readonly string[],
  source: RecipeSource,
  options: CallOptions = {},
): Promise<Recipe> {
  const { signal } = options;
  const form = createNormalForm(references.toSorted());
  const files = walkFiles(root, (digest) => source.directories.get(digest, { signal }), options);
  const analyze = async (file: FileNode, aborted: AbortSignal): Promise<BlobRecipe> => {
    const known = await source.analysis?.(file, form.references);
    const analysis = known ?? (await analyzeBlob(file, form, source.blobs, aborted));
    return withWireSizes(analysis, source);
  };
  const all: BlobRecipe[] = [];
  for await (const blob of inParallel(files, BLOBS_IN_PARALLEL, analyze, options)) all.push(blob);
  return listed(all, form.references);
}

async function analyzeBlob(
  { digest, size }: FileNode,
  form: NormalForm,
  blobs: BlobService,
  signal: AbortSignal,
): Promise<BlobAnalysis> {
  const reader = await blobs.open(digest, { signal });
  if (reader === undefined) throw new CastoreError("INCOMPLETE", `blob ${digest} is missing`);
  const analysis = await analyzeReader(reader, form, signal);
  if (analysis.digest !== digest || analysis.size !== size) {
    const got = `got ${analysis.size} with digest ${analysis.digest}`;
    throw new CastoreError("CORRUPT", `blob ${digest} of ${size} bytes: ${got}`);
  }
  return analysis;
}

async function analyzeReader(
  reader: BlobReader,
  form: NormalForm,
  signal: AbortSignal,
): Promise<BlobAnalysis> {
  try {
    const analyzer = createBlobAnalyzer(form);
    for await (const piece of reader.stream(0, undefined, { signal })) analyzer.push(piece);
    return analyzer.finish();
  } finally {
    await reader.close();
  }
}

async function withWireSizes(analysis: BlobAnalysis, source: RecipeSource): Promise<BlobRecipe> {
  const chunks: RecipeChunk[] = [];
  for (const chunk of analysis.chunks) {
    chunks.push({ ...chunk, wireSize: await source.wireSize?.(chunk) });
  }
  return { ...analysis, chunks };
}

/** Leaves out what the directories tell already, and the references that do not occur. */
function listed(all: readonly BlobRecipe[], references: readonly string[]): Recipe {
  const plain = all.filter(({ chunks, occurrences }) => chunks.length + occurrences.length === 1);
  const others = all.filter(({ chunks, occurrences }) => chunks.length + occurrences.length > 1);
  const used = new Set(others.flatMap((blob) => blob.occurrences.map((o) => o.reference)));
  const indices = new Map([...used].sort((a, b) => a - b).map((index, i) => [index, i]));
  const wireSizes = plain.map(({ chunks }) => chunks[0]?.wireSize);
  return {
    references: references.filter((_, index) => used.has(index)),
    blobs: others.map(({ digest, size, chunks, occurrences }) => ({
      digest,
      size,
      chunks,
      occurrences: occurrences.map(({ offset, reference }) => ({
        offset,
        reference: indices.get(reference) ?? 0,
      })),
    })),
    plainWireSizes: wireSizes.every((size) => size !== undefined) ? wireSizes : [],
  };
}
