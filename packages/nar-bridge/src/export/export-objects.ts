import {
  type BlobReader,
  type BlobService,
  type ByteSource,
  buildOutboard,
  type CallOptions,
  CastoreError,
  type ChunkMeta,
  completeRecipe,
  createObjectStoreBlobService,
  createZstdEncoder,
  type Digest,
  encodeDirectory,
  encodeDirectoryStream,
  encodeRecipe,
  type FileNode,
  type FileObjectStore,
  inParallel,
  type LocalStore,
  objectKey,
  type Recipe,
  walkFiles,
  zstdCompress,
} from "@castore/castore";
import { storePathHash } from "../nix/store-path.ts";
import type { PathInfo } from "../path-infos/path-info.ts";
import { encodeSignedPathInfo } from "../path-infos/path-info-codec.ts";
import type { RecipeStore } from "../path-infos/recipe-store.ts";
import { RANGED_BYTES_MIN } from "../substitution/lazy-ranges.ts";
import type { ExportDirectory } from "./export-directory.ts";

/** Files of one chunk put at once. Of others each has its own chunks under way. */
const SMALL_FILES_PARALLEL = 16;
const CHUNKS_PARALLEL = 8;
/** A blob no larger is one chunk however it is cut: FastCDC's least size. */
const ONE_CHUNK_BYTES = 128 * 1024;
const METADATA_LEVEL = 19;
const EMPTY: readonly Uint8Array[] = [];

export interface ObjectExportOptions {
  readonly store: LocalStore;
  readonly recipes: RecipeStore;
  readonly target: ExportDirectory;
  /** For chunks. */
  readonly zstdLevel: number;
}

/**
 * Writes what castore/1 has of a path into a directory: what something refers to always before it.
 */
export class ObjectExport {
  readonly #options: ObjectExportOptions;
  readonly #objects: FileObjectStore;
  readonly #blobs: BlobService;

  constructor(options: ObjectExportOptions) {
    this.#options = options;
    this.#objects = options.target.objects;
    const { zstdLevel } = options;
    this.#blobs = createObjectStoreBlobService(this.#objects, { zstdLevel });
  }

  /** The recipe of a path, with the sizes that chunks have in the directory. */
  async of(pathInfo: PathInfo, options: CallOptions = {}): Promise<Recipe> {
    const recipe = await this.#options.recipes.of(pathInfo, options);
    const files = await this.#files(pathInfo, options);
    const sizes = new Map<Digest, number>();
    const chunks = completeRecipe(recipe, files).flatMap((blob) => blob.chunks);
    const put = async (chunk: ChunkMeta, signal: AbortSignal) => {
      sizes.set(chunk.digest, await this.#putChunk(chunk, { signal }));
    };
    for await (const _done of inParallel(chunks, CHUNKS_PARALLEL, put, options));
    const listed = new Set(recipe.blobs.map(({ digest }) => digest));
    const plain = files.filter(({ digest }) => !listed.has(digest));
    return {
      references: recipe.references,
      blobs: recipe.blobs.map((blob) => ({
        ...blob,
        chunks: blob.chunks.map((chunk) => ({ ...chunk, wireSize: sizes.get(chunk.digest) })),
      })),
      plainWireSizes: plain.map(({ digest }) => sizes.get(digest) ?? 0),
    };
  }

  /** Blobs, directories, recipe and path info. Rejects INCOMPLETE where the store lacks one. */
  async put(pathInfo: PathInfo, options: CallOptions): Promise<void> {
    const { target } = this.#options;
    const { node } = pathInfo;
    if (node.type !== "symlink") {
      await this.#putBlobs(await this.#files(pathInfo, options), options);
      const recipe = encodeRecipe(await this.of(pathInfo, options));
      if (node.type === "directory") await this.#putDirectories(node.digest, options);
      await target.replace(`recipe/${node.digest}`, await compressMetadata([recipe]), options);
    }
    const key = `pathinfo/${storePathHash(pathInfo.storePath)}`;
    await target.replace(key, encodeSignedPathInfo(pathInfo), options);
  }

  async #files({ node }: PathInfo, options: CallOptions): Promise<FileNode[]> {
    const files: FileNode[] = [];
    const get = (digest: Digest) => this.#options.store.directories.get(digest, options);
    for await (const file of walkFiles(node, get, options)) files.push(file);
    return files;
  }

  async #putBlobs(files: readonly FileNode[], options: CallOptions): Promise<void> {
    // Walks pass it over, but snix asks for it.
    const { digest } = await this.#blobs.put(EMPTY, options);
    this.#options.target.keep(objectKey("blobs", digest));
    const put = (file: FileNode, signal: AbortSignal) => this.#putBlob(file, { signal });
    const isSmall = ({ size }: FileNode) => size <= ONE_CHUNK_BYTES;
    const small = files.filter(isSmall);
    for await (const _done of inParallel(small, SMALL_FILES_PARALLEL, put, options));
    for (const file of files) if (!isSmall(file)) await this.#putBlob(file, options);
  }

  async #putBlob({ digest, size }: FileNode, options: CallOptions): Promise<void> {
    const { target } = this.#options;
    const key = objectKey("blobs", digest);
    if ((await this.#objects.head(key, options)) === undefined) {
      await using reader = await this.#open(digest, options);
      const bytes = reader.stream(0, reader.size, options);
      await this.#blobs.put(bytes, { ...options, expect: digest });
    }
    if (size >= RANGED_BYTES_MIN) await this.#putOutboard(digest, options);
    target.keep(key);
    // It may have been cut by another writer, elsewhere than the recipe cuts it.
    const isCut = target.isKeeping && size > ONE_CHUNK_BYTES;
    const chunks = isCut ? ((await this.#blobs.chunks(digest, options)) ?? []) : [];
    for (const chunk of chunks) target.keep(objectKey("chunks", chunk.digest));
    if (chunks.length === 0) target.keep(objectKey("chunks", digest));
  }

  async #putOutboard(digest: Digest, options: CallOptions): Promise<void> {
    const key = `outboard/${digest}`;
    this.#options.target.keep(key);
    if ((await this.#objects.head(key, options)) !== undefined) return;
    await using reader = await this.#open(digest, options);
    const outboard = await buildOutboard(reader.stream(0, reader.size, options));
    await this.#objects.put(key, outboard, { ...options, ifAbsent: true });
  }

  async #open(digest: Digest, options: CallOptions): Promise<BlobReader> {
    const reader = await this.#options.store.blobs.open(digest, options);
    if (reader !== undefined) return reader;
    throw new CastoreError("INCOMPLETE", `blob ${digest} is missing`);
  }

  /** Resolves with the bytes that the chunk has in the directory. */
  async #putChunk(chunk: ChunkMeta, options: CallOptions): Promise<number> {
    const { store, target, zstdLevel } = this.#options;
    const key = objectKey("chunks", chunk.digest);
    target.keep(key);
    const present = await this.#objects.head(key, options);
    if (present !== undefined) return present.size;
    const bytes = await store.chunks.get(chunk, options);
    if (bytes === undefined) {
      throw new CastoreError("INCOMPLETE", `chunk ${chunk.digest} of a recipe is missing`);
    }
    const compressed = zstdCompress(bytes, zstdLevel);
    await this.#objects.put(key, compressed, { ...options, ifAbsent: true });
    return compressed.byteLength;
  }

  async #putDirectories(root: Digest, options: CallOptions): Promise<void> {
    const { store, target } = this.#options;
    const key = objectKey("dirs", root);
    target.keep(key);
    if ((await this.#objects.head(key, options)) !== undefined) return;
    async function* encoded() {
      for await (const directory of store.directories.getClosure(root, options)) {
        yield encodeDirectory(directory);
      }
    }
    const bytes = await compressMetadata(encodeDirectoryStream(encoded()));
    await this.#objects.put(key, bytes, { ...options, ifAbsent: true });
  }
}

/** One zstd stream; always of one level, so that equal metadata are equal files. */
export async function compressMetadata(source: ByteSource): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of createZstdEncoder({ level: METADATA_LEVEL })(source)) {
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}
