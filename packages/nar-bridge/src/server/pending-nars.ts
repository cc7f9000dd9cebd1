import { CastoreError, type LocalStore, type Node, type StoreTable } from "@castore/castore";
import { type NarHash, parseNarHash } from "../nix/nix-hash.ts";

/** How long an uploaded NAR waits for its narinfo. */
export const UPLOAD_LEASE_MS = 3_600_000;

const PIN_PREFIX = "upload ";
const FILE_LENGTH_MAX = 160;

/** A NAR that was uploaded and verified, but that no narinfo names yet. */
export interface PendingNar {
  readonly node: Node;
  readonly narHash: NarHash;
  readonly narSize: number;
}

/**
 * NARs that wait for their narinfos, by file name: pinned in the store for UPLOAD_LEASE_MS, also
 * across a restart.
 */
export class PendingNars {
  readonly #store: LocalStore;
  readonly #table: StoreTable;

  constructor(store: LocalStore) {
    this.#store = store;
    this.#table = store.table("uploads");
  }

  get(file: string): PendingNar | undefined {
    const row = this.#table.get(file);
    if (row?.node === undefined) return undefined;
    const { narHash, narSize } = JSON.parse(Buffer.from(row.value).toString("utf8"));
    return { node: row.node, narHash: parseNarHash(narHash), narSize };
  }

  /** Durable when resolved. To be called under the lease that the node was stored under. */
  async put(file: string, { node, narHash, narSize }: PendingNar): Promise<void> {
    const name = PIN_PREFIX + file;
    await this.#store.pins.put({ name, keys: [], nodes: [node], ttlMs: UPLOAD_LEASE_MS });
    const value = Buffer.from(JSON.stringify({ narHash, narSize }));
    await this.#table.put([{ key: file, node, value }]);
  }

  async delete(file: string): Promise<void> {
    await this.#table.delete(file);
    await this.#store.pins.delete(PIN_PREFIX + file);
  }

  /** Forgets NARs that no narinfo came for in time, but whose contents something else keeps. */
  async sweep(): Promise<void> {
    const pinned = new Set<string>();
    for await (const { name } of this.#store.pins.list()) pinned.add(name);
    const late: string[] = [];
    for await (const { key } of this.#table.list()) {
      if (!pinned.has(PIN_PREFIX + key)) late.push(key);
    }
    for (const key of late) await this.delete(key);
  }
}

/** Rejects INVALID for a name under which no NAR can be kept. */
export function checkNarFileName(file: string): void {
  if (file.length <= FILE_LENGTH_MAX && /^[0-9a-zA-Z+\-._?=]+$/.test(file)) return;
  const shown = JSON.stringify(file.slice(0, FILE_LENGTH_MAX));
  throw new CastoreError("INVALID", `nar/${shown}: not a name that Nix gives to a NAR`);
}
