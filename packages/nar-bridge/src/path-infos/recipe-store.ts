import {
  buildRecipe,
  type CallOptions,
  CastoreError,
  type Digest,
  decodeRecipe,
  encodeRecipe,
  type LocalStore,
  type Recipe,
  type RecipeSource,
  type StoreTable,
  zstdCompress,
} from "@castore/castore";
import { LRUCache } from "lru-cache";
import { normalReferences } from "../nix/normal-references.ts";
import type { PathInfo } from "./path-info.ts";

/** Recipes kept in memory. */
const RECIPES_MAX = 256;

/** Paths whose recipes wait to be made; one beyond that is made when it is asked for. */
const SOON_MAX = 4_096;

/** Recipes of roots, made once and kept in the local store. */
export class RecipeStore implements AsyncDisposable {
  readonly #store: LocalStore;
  readonly #table: StoreTable;
  readonly #recent = new LRUCache<Digest, Recipe>({ max: RECIPES_MAX });
  readonly #underWay = new Map<Digest, Promise<Recipe>>();
  readonly #soon = new Map<Digest, PathInfo>();
  readonly #abort = new AbortController();
  #working: Promise<void> | undefined;

  constructor(store: LocalStore) {
    this.#store = store;
    this.#table = store.table("recipes");
  }

  /** The recipe of a root that was made before, is being made, or is to be made soon. */
  async get(root: Digest, options: CallOptions = {}): Promise<Recipe | undefined> {
    const pathInfo = this.#soon.get(root);
    return this.#made(root) ?? this.#underWay.get(root) ?? (pathInfo && this.of(pathInfo, options));
  }

  /**
   * Makes the recipe of the path's root beside other work, one at a time. One that cannot be made
   * is tried again, and its fault told, when it is asked for.
   */
  makeSoon(pathInfo: PathInfo): void {
    const { node } = pathInfo;
    if (node.type === "symlink" || this.#soon.size >= SOON_MAX) return;
    if (this.#made(node.digest) !== undefined || this.#underWay.has(node.digest)) return;
    this.#soon.set(node.digest, pathInfo);
    this.#working ??= this.#work().finally(() => {
      this.#working = undefined;
    });
  }

  /** Gives up what is being made; to be called before the store is closed. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort(new CastoreError("CLOSED", "recipes: closed"));
    this.#soon.clear();
    await Promise.allSettled([this.#working, ...this.#underWay.values()]);
  }

  async #work(): Promise<void> {
    for (const [root, pathInfo] of this.#soon) {
      await this.of(pathInfo).catch(() => {});
      this.#soon.delete(root);
    }
  }

  #made(root: Digest): Recipe | undefined {
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
    const known = this.#made(node.digest) ?? this.#underWay.get(node.digest);
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
    using _lease = this.#store.lease();
    const source: RecipeSource = {
      directories,
      blobs,
      analysis: ({ digest }, references) => this.#store.analyze(digest, references),
      wireSize: async (chunk) => {
        const bytes = await chunks.get(chunk);
        return bytes && zstdCompress(bytes).byteLength;
      },
    };
    const { signal } = this.#abort;
    const references = normalReferences(pathInfo);
    const recipe = await buildRecipe(pathInfo.node, references, source, { signal });
    await this.#table.put([{ key: root, node: pathInfo.node, value: encodeRecipe(recipe) }]);
    this.#recent.set(root, recipe);
    return recipe;
  }
}
