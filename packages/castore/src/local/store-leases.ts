import { randomBytes } from "node:crypto";
import { CastoreError } from "../castore-error.ts";
import { isAlive, ownIdentity, type ProcessIdentity } from "./process-identity.ts";
import { sealRow, unsealRow } from "./row-checksum.ts";
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

/** JSON with a checksum. Rejects CORRUPT where the row cannot be read. */
export function decodeLease(id: string, row: Uint8Array): LeaseRow {
  try {
    return JSON.parse(unsealRow(row).toString("utf8")) as LeaseRow;
  } catch (cause) {
    throw new CastoreError("CORRUPT", `lease ${id}: its row cannot be read`, { cause });
  }
}

export function encodeLease(row: LeaseRow): Uint8Array {
  return sealRow(Buffer.from(JSON.stringify(row)));
}

/** Who has the store open, and since which epoch they may hold what they put or saw. */
export type LiveLeases = ReadonlyMap<string, Pick<LeaseRow, "since">>;

/**
 * The processes that have the store open, by id; removes the rows of those that are dead. A row
 * that is damaged may be of a live one, which may hold anything: until fsck removes it.
 */
export function liveLeases(index: StoreIndex): LiveLeases {
  const live = new Map<string, Pick<LeaseRow, "since">>();
  const dead: Uint8Array[] = [];
  visitRows(index.rows.leases, {}, (key, value) => {
    const id = key.toString("latin1");
    const row = tryDecodeLease(id, value);
    if (row !== undefined && isAlive(row) === false) dead.push(key);
    else live.set(id, row ?? { since: 0 });
    return true;
  });
  if (dead.length > 0) {
    index.transaction(() => {
      for (const key of dead) index.rows.leases.removeSync(key);
    });
  }
  return live;
}

function tryDecodeLease(id: string, row: Uint8Array): LeaseRow | undefined {
  try {
    return decodeLease(id, row);
  } catch {
    return undefined;
  }
}

/** How often an open store looks whether a collection waits for its lease. */
const POLL_MS = 500;

/** The leases of one open store. */
export class StoreLeases {
  readonly id: string = randomBytes(8).toString("hex");
  readonly #index: StoreIndex;
  readonly #held = new Set<Lease>();
  /** What is held for puts and answers outside any lease: the last two spans of `spanMs`. */
  #spans: Lease[] = [];
  #spanEndMs = 0;
  readonly #spanMs: number;
  #since = 0;
  #files = 0;
  #poll: NodeJS.Timeout | undefined;

  /** What is put or seen outside any lease is held for at least `spanMs`. */
  constructor(index: StoreIndex, spanMs: number) {
    this.#index = index;
    this.#spanMs = spanMs;
  }

  /** Tells other processes of this one. */
  register(): void {
    this.#index.transaction(() => this.#write(readCounter(this.#index.rows.meta, META_EPOCH)));
    this.#spans = [this.hold(), this.hold()];
    this.#spanEndMs = performance.now() + this.#spanMs;
    this.#poll = setInterval(() => this.advance(), POLL_MS).unref();
  }

  hold(): Lease {
    const release = (): void => {
      this.#held.delete(lease);
    };
    // At least what others were told: that goes up only to the lowest of what is held.
    const since = Math.max(this.#since, readCounter(this.#index.rows.meta, META_EPOCH));
    const lease: Lease = { since, release, [Symbol.dispose]: release };
    this.#held.add(lease);
    return lease;
  }

  /** Lets go of what was put or seen outside any lease. */
  renewSpans(): void {
    for (const span of this.#spans) span.release();
    this.#spans = [this.hold(), this.hold()];
    this.#spanEndMs = performance.now() + this.#spanMs;
    this.advance();
  }

  /** Tells other processes since when this one may now hold something. */
  advance(): void {
    if (this.#poll === undefined) return;
    if (performance.now() >= this.#spanEndMs) {
      this.#spans.shift()?.release();
      this.#spans.push(this.hold());
      this.#spanEndMs = performance.now() + this.#spanMs;
    }
    let since = readCounter(this.#index.rows.meta, META_EPOCH);
    for (const lease of this.#held) since = Math.min(since, lease.since);
    if (since <= this.#since) return;
    try {
      this.#index.transaction(() => this.#write(since));
    } catch {
      // A full disk, say: others go on to believe that more is held than is. The next may do.
    }
  }

  #write(since: number): void {
    const row = encodeLease({ ...ownIdentity(), since });
    this.#index.rows.leases.putSync(Buffer.from(this.id), row);
    this.#since = since;
  }

  /** A name that tells whose the file is. */
  temporaryName(): string {
    return `${this.id}.${this.#files++}`;
  }

  /** Nothing is held any more. */
  close(): void {
    if (this.#poll === undefined) return;
    clearInterval(this.#poll);
    this.#poll = undefined;
    try {
      this.#index.transaction(() => this.#index.rows.leases.removeSync(Buffer.from(this.id)));
    } catch {
      // The row ends with this process at the latest.
    }
  }
}
