import type { LocalStore, Node, StoreTable } from "@castore/castore";
import { type NarHash, parseNarHash } from "./nix-hash.ts";

/** How long an uploaded NAR waits for its narinfo. */
export const UPLOAD_LEASE_MS = 3_600_000;

/** A NAR that was uploaded and verified, but that no narinfo names yet. */
export interface PendingNar {
  readonly node: Node;
  readonly narHash: NarHash;
  readonly narSize: number;
}

/** NARs that wait for their narinfos, by file name; held in the store for UPLOAD_LEASE_MS. */
export class PendingNars {
  readonly #table: StoreTable;

  constructor(store: LocalStore) {
    this.#table = store.table("uploads");
  }

  get(file: string): PendingNar | undefined {
    const row = this.#table.get(file);
    if (row?.node === undefined) return undefined;
    const { narHash, narSize } = JSON.parse(Buffer.from(row.value).toString("utf8"));
    return { node: row.node, narHash: parseNarHash(narHash), narSize };
  }

  /** Durable when resolved. */
  async put(file: string, { node, narHash, narSize }: PendingNar): Promise<void> {
    const value = Buffer.from(JSON.stringify({ narHash, narSize }));
    await this.#table.put([{ key: file, node, value }]);
  }

  async delete(file: string): Promise<void> {
    await this.#table.delete(file);
  }
}
