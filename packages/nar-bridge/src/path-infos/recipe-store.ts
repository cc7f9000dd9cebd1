import {
  buildRecipe,
  type CallOptions,
  type Digest,
  decodeRecipe,
  encodeRecipe,
  type LocalStore,
  type Recipe,
  type StoreTable,
  zstdCompress,
} from "@castore/castore";
import { LRUCache } from "lru-cache";
import { normalReferences } from "../nix/normal-references.ts";
import type { PathInfo } from "./path-info.ts";

/** Recipes kept in memory. */
const RECIPES_MAX = 256;

/** Recipes of roots, made when they are first asked for and kept in the local store. */
export class RecipeStore {
  readonly #store: LocalStore;
  readonly #table: StoreTable;
  readonly #recent = new LRUCache<Digest, Recipe>({ max: RECIPES_MAX });
  readonly #underWay = new Map<Digest, Promise<Recipe>>();

  constructor(store: LocalStore) {
    this.#store = store;
    this.#table = store.table("recipes");
  }

  /** The recipe of a root that was made before. */
  get(root: Digest): Recipe | undefined {
    const recent = this.#recent.get(root);
    if (recent !== undefined) return recent;
    const row = this.#table.get(root);
    if (row === undefined) return undefined;
    const recipe = decodeRecipe(row.value);
    this.#recent.set(root, recipe);
    return recipe;
  }

  /** The recipe of the path's root. Rejects INCOMPLETE where it is not whole in the store. */
  async of(pathInfo: PathInfo, options: CallOptions = {}): Promise<Recipe> {
    const { node } = pathInfo;
    if (node.type === "symlink") return { references: [], blobs: [], plainWireSizes: [] };
    const known = this.get(node.digest) ?? this.#underWay.get(node.digest);
    if (known !== undefined) return await known;
    options.signal?.throwIfAborted();
    // Not the caller's signal: others may wait for it, and what is made is kept.
    const making = this.#make(pathInfo, node.digest);
    this.#underWay.set(node.digest, making);
    try {
      return await making;
    } finally {
      this.#underWay.delete(node.digest);
    }
  }

  async #make(pathInfo: PathInfo, root: Digest): Promise<Recipe> {
    const { directories, blobs, chunks } = this.#store;
    const recipe = await buildRecipe(pathInfo.node, normalReferences(pathInfo), {
      directories,
      blobs,
      analysis: ({ digest }, references) => this.#store.analyze(digest, references),
      wireSize: async (chunk) => {
        const bytes = await chunks.get(chunk);
        return bytes && zstdCompress(bytes).byteLength;
      },
    });
    await this.#table.put([{ key: root, node: pathInfo.node, value: encodeRecipe(recipe) }]);
    this.#recent.set(root, recipe);
    return recipe;
  }
}
