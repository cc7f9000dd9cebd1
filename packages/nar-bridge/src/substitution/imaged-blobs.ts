import {
  type CallOptions,
  type Digest,
  decodeRecipe,
  type LocalStore,
  pathComponentOfText,
  type RootNodes,
} from "@castore/castore";
import { normalReferences } from "../nix/normal-references.ts";
import { type StoreHash, storePathHash } from "../nix/store-path.ts";
import type { ImagedPath } from "../path-infos/closure-image.ts";
import type { CastoreWay } from "./castore-way.ts";
import { type BlobSource, type BlobSources, type LazyPaths, plainSources } from "./lazy-paths.ts";
import type { Substituter } from "./substituter.ts";

export interface ImagedBlobsOptions {
  readonly paths: readonly ImagedPath[];
  /** Where blobs go. */
  readonly contents: Pick<LocalStore, "blobs" | "blobsFor">;
  readonly substituter: Pick<Substituter, "claim">;
  /** The same paths with their metadata, for a blob that their server does not give. */
  readonly roots: Pick<RootNodes, "get">;
  readonly lazyPaths: Pick<LazyPaths, "pathWith">;
}

/**
 * The blobs of a closure whose image is mounted: they come from the castore server that has its
 * paths. Nothing is looked at before a blob needs it: the size of the closure costs nothing.
 */
export class ImagedBlobs implements BlobSources {
  readonly #options: ImagedBlobsOptions;
  readonly #unlisted: Set<ImagedPath>;
  readonly #listed = new Map<Digest, Omit<BlobSource, "way">>();
  #way: CastoreWay | undefined;
  #claiming: Promise<CastoreWay | undefined> | undefined;

  constructor(options: ImagedBlobsOptions) {
    this.#options = options;
    this.#unlisted = new Set(options.paths.filter(({ recipe }) => recipe.byteLength > 0));
  }

  async sources(
    digest: Digest,
    size: number | undefined,
    options: CallOptions,
  ): Promise<readonly BlobSource[]> {
    if (this.#way === undefined)
      this.#claiming ??= this.#claim(options).finally(() => {
        this.#claiming = undefined;
      });
    const way = this.#way ?? (await this.#claiming);
    if (way === undefined) return [];
    this.#way = way;
    const listed = this.#listing(digest);
    if (listed !== undefined) return [{ ...listed, way }];
    return plainSources({ digest, size }, this.#options.contents.blobs, way);
  }

  async pathWith(digest: Digest, options: CallOptions = {}): Promise<StoreHash | undefined> {
    const { paths, roots, lazyPaths } = this.#options;
    for (const { pathInfo } of paths) {
      await roots.get(pathComponentOfText(pathInfo.storePath), options);
    }
    return lazyPaths.pathWith(digest, options);
  }

  /** The server of the first path that has one; undefined while none answers. */
  async #claim(options: CallOptions): Promise<CastoreWay | undefined> {
    for (const { pathInfo } of this.#options.paths) {
      const claimed = await this.#options.substituter.claim(
        storePathHash(pathInfo.storePath),
        options,
      );
      if (claimed !== undefined) return claimed.way;
    }
    return undefined;
  }

  /** What a recipe says of the blob. Recipes that name it are decoded, and no other. */
  #listing(digest: Digest): Omit<BlobSource, "way"> | undefined {
    const bytes = Buffer.from(digest, "hex");
    for (const path of this.#listed.has(digest) ? [] : this.#unlisted) {
      if (path.recipe.indexOf(bytes) < 0) continue;
      this.#unlisted.delete(path);
      this.#list(path);
    }
    return this.#listed.get(digest);
  }

  #list({ pathInfo, recipe: encoded }: ImagedPath): void {
    const recipe = decodeRecipe(encoded);
    const near = this.#options.contents.blobsFor(normalReferences(pathInfo));
    for (const blob of recipe.blobs) {
      this.#listed.set(blob.digest, { blob, references: recipe.references, near });
    }
  }
}
