import { buildOutboard, type Digest, type LocalStore, type StoreTable } from "@castore/castore";

/** Outboards of blobs, made when they are first asked for and kept in the local store. */
export class OutboardStore {
  readonly #store: LocalStore;
  readonly #table: StoreTable;
  readonly #underWay = new Map<Digest, Promise<Uint8Array | undefined>>();

  constructor(store: LocalStore) {
    this.#store = store;
    this.#table = store.table("outboards");
  }

  /** Undefined where the blob is not in the store. */
  async get(digest: Digest): Promise<Uint8Array | undefined> {
    const row = this.#table.get(digest);
    if (row !== undefined) return row.value;
    let making = this.#underWay.get(digest);
    if (making === undefined) {
      making = this.#make(digest).finally(() => this.#underWay.delete(digest));
      this.#underWay.set(digest, making);
    }
    return await making;
  }

  async #make(digest: Digest): Promise<Uint8Array | undefined> {
    await using reader = await this.#store.blobs.open(digest);
    if (reader === undefined) return undefined;
    const { size } = reader;
    const value = await buildOutboard(reader.stream());
    const node = { type: "file", digest, size, executable: false } as const;
    await this.#table.put([{ key: digest, node, value }]);
    return value;
  }
}
