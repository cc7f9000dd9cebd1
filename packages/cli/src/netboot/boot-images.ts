import {
  encodeRecipe,
  type LocalStore,
  type PathComponent,
  pathComponentOfText,
  zstdCompress,
} from "@castore/castore";
import { buildKernelImage } from "@castore/fuse";
import {
  createStoreRootNodes,
  encodeClosureImage,
  type ImagedPath,
  type LocalPathInfoService,
  parseStorePath,
  type RecipeStore,
  type RootSigningKey,
  storePathHash,
} from "@castore/nar-bridge";
import { STORE_EXTRAS } from "../store-extras.ts";

/** Systems whose images are kept in memory, some MB each. */
const SYSTEMS_MAX = 4;
/** Of zstd: half of an image are digests, which nothing makes smaller. */
const LEVEL = 9;

export interface BootImagesOptions {
  readonly store: LocalStore;
  readonly pathInfos: LocalPathInfoService;
  readonly recipes: RecipeStore;
  readonly rootSigningKeys: readonly RootSigningKey[];
}

/** Signed images of the metadata of whole systems, each made once. */
export class BootImages {
  readonly #options: BootImagesOptions;
  /** In order of use. */
  readonly #images = new Map<PathComponent, Promise<Uint8Array>>();

  constructor(options: BootImagesOptions) {
    this.#options = options;
  }

  /**
   * The image of a store path with all that it refers to, in zstd; undefined where nobody could
   * vouch for it. Rejects INCOMPLETE where something of it is not here.
   */
  async of(storePath: string): Promise<Uint8Array | undefined> {
    if (this.#options.rootSigningKeys.length === 0) return undefined;
    const name = pathComponentOfText(parseStorePath(storePath));
    const image = this.#images.get(name) ?? this.#make(name);
    this.#images.delete(name);
    this.#images.set(name, image);
    image.catch(() => this.#images.delete(name));
    for (const oldest of this.#images.keys()) {
      if (this.#images.size <= SYSTEMS_MAX) break;
      this.#images.delete(oldest);
    }
    return image;
  }

  async #make(name: PathComponent): Promise<Uint8Array> {
    const { store, pathInfos, recipes, rootSigningKeys } = this.#options;
    const roots = createStoreRootNodes({ store, pathInfos, pin: "none" });
    const names = await roots.closure([name]);
    const paths: ImagedPath[] = [];
    for (const storePath of names.map(parseStorePath)) {
      const pathInfo = await pathInfos.get(storePathHash(storePath));
      if (pathInfo === undefined) continue; // and the image is INCOMPLETE
      const recipe = encodeRecipe(await recipes.of(pathInfo));
      paths.push({ pathInfo, recipe });
    }
    const image = await buildKernelImage({
      ...{ names, extraRoots: STORE_EXTRAS, directories: store.directories, blobs: store.blobs },
      roots: {
        ...roots,
        // Without contents: machines fetch what they look at.
        get: async (root) => {
          const found = await roots.get(root);
          return found && { ...found, lazy: true };
        },
        async hold() {},
      },
    });
    return zstdCompress(encodeClosureImage({ paths, image }, rootSigningKeys), LEVEL);
  }
}
