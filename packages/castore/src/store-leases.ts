import { randomBytes } from "node:crypto";
import { isAlive, ownIdentity, type ProcessIdentity } from "./process-identity.ts";
import { type StoreIndex, visitRows } from "./store-index.ts";
import { META_EPOCH, readCounter } from "./store-writes.ts";

/** Keeps what this process has put or seen, and not yet put under a root, from being collected. */
export interface Lease extends Disposable {
  /** The collection epoch since which it holds. */
  readonly since: number;
  /** Idempotent. */
  release(): void;
}

/** A process that has the store open, as `leases` tells others (docs/local-store.md, Leases). */
export interface LeaseRow extends ProcessIdentity {
  /** What was put or seen since this epoch may be in use by the process. */
  readonly since: number;
}

export function decodeLease(row: Uint8Array): LeaseRow {
  return JSON.parse(Buffer.from(row).toString("utf8")) as LeaseRow;
}

export function encodeLease(row: LeaseRow): Uint8Array {
  return Buffer.from(JSON.stringify(row));
}

/** The ids of processes that have the store open; removes the rows of those that are dead. */
export function liveLeases(index: StoreIndex): Map<string, LeaseRow> {
  const live = new Map<string, LeaseRow>();
  const dead: Uint8Array[] = [];
  visitRows(index.rows.leases, {}, (key, value) => {
    const row = decodeLease(value);
    if (isAlive(row) === false) dead.push(key);
    else live.set(key.toString("latin1"), row);
    return true;
  });
  for (const key of dead) index.rows.leases.removeSync(key);
  return live;
}

/** The leases of one open store. */
export class StoreLeases {
  readonly id: string = randomBytes(8).toString("hex");
  #since = 0;
  #files = 0;
  readonly #held = new Set<Lease>();

  /** Tells other processes of this one. Within a transaction. */
  register(index: StoreIndex): void {
    this.#since = readCounter(index.rows.meta, META_EPOCH);
    const row = encodeLease({ ...ownIdentity(), since: this.#since });
    index.rows.leases.putSync(Buffer.from(this.id), row);
  }

  hold(): Lease {
    const release = (): void => {
      this.#held.delete(lease);
    };
    const lease: Lease = { since: this.#since, release, [Symbol.dispose]: release };
    this.#held.add(lease);
    return lease;
  }

  /** A name that tells whose the file is. */
  temporaryName(): string {
    return `${this.id}.${this.#files++}`;
  }
}
