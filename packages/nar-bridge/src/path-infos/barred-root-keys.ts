import { type LocalStore, nodesEqual, type StoreTable } from "@castore/castore";
import { isStoreHash, storePathHash } from "../nix/store-path.ts";
import type { PathInfo } from "./path-info.ts";
import { decodeStoredPathInfo } from "./stored-path-info.ts";

/** The table of a local store that lists root keys whose word was found to be false. */
const BARRED_TABLE = "barred-root-keys";

/** A root key that vouched for a root whose NAR has another hash. */
export interface BarredRootKey {
  /** `NAME:BASE64`. */
  readonly key: string;
  /** What was found, for people. */
  readonly reason: string;
}

/** Root keys that are no longer believed in one store, by any process, whoever names them. */
export class BarredRootKeys {
  readonly #store: LocalStore;
  readonly #table: StoreTable;
  readonly #onBarred: ((barred: BarredRootKey) => void) | undefined;

  constructor(store: LocalStore, onBarred?: (barred: BarredRootKey) => void) {
    this.#store = store;
    this.#table = store.table(BARRED_TABLE);
    this.#onBarred = onBarred;
  }

  has(key: string): boolean {
    return this.#table.get(key) !== undefined;
  }

  /** Bars a key, and deletes all that it vouched for. Durable when resolved. */
  async bar(barred: BarredRootKey): Promise<void> {
    const { key, reason } = barred;
    await this.#table.put([{ key, value: Buffer.from(reason) }]);
    this.#onBarred?.(barred);
    const { roots } = this.#store;
    for await (const record of roots.list()) {
      if (!isStoreHash(record.key)) continue;
      const { proof } = decodeStoredPathInfo(record.payload);
      if (proof.by === "vouched" && proof.key === key) await roots.delete(record.key);
    }
  }

  /** Bars whoever vouched for another root of the path's NAR, which was rendered now. */
  async compare({ storePath, narHash, node }: PathInfo): Promise<void> {
    const record = await this.#store.roots.get(storePathHash(storePath));
    const known = record && decodeStoredPathInfo(record.payload);
    if (known?.proof.by !== "vouched" || known.pathInfo.narHash !== narHash) return;
    if (nodesEqual(known.pathInfo.node, node)) return;
    const reason = `${storePath}: the NAR ${narHash} has another root`;
    await this.bar({ key: known.proof.key, reason });
  }
}
