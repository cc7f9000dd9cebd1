import { rmSync } from "node:fs";
import { CastoreError } from "../castore-error.ts";
import { digestOfBytes } from "../model/digest.ts";
import { deleteChunkRows } from "./chunk-rows.ts";
import { condemnGarbage, parentsFirst, scanObjects } from "./garbage-condemn.ts";
import { GarbageMarker } from "./garbage-marker.ts";
import { encodePin } from "./pin-row.ts";
import { chooseRoots, type RootChoice } from "./root-choice.ts";
import { storeError } from "./store-error.ts";
import { peekRow, type StoreIndex, visitRows } from "./store-index.ts";
import type { StoreLayout } from "./store-layout.ts";
import { liveLeases } from "./store-leases.ts";
import type { TaskHost } from "./store-task.ts";
import {
  condemnedKey,
  countedRowBytes,
  deleteRowsNaming,
  META_COLLECTOR,
  META_LOG,
  META_SIZE,
  type ObjectRows,
  readCounter,
  writeCounter,
} from "./store-writes.ts";

/** What one transaction deletes: others wait for the lock some 30 ms. */
const BATCH_OBJECTS = 1024;
const POLL_MS = 25;
/** A collection that found the disk full still says that it has ended. */
const LEAVE_ROOM_BYTES = 1 << 16;

export interface CollectionOptions {
  /** The lease of the store that collects. */
  readonly owner: string;
  readonly dryRun: boolean;
  /** Evicts root records, least recently used first, until the store is counted at most so big. */
  readonly sizeMax: number | undefined;
  /** How long to wait for leases that were there before. */
  readonly waitMs: number;
}

export interface CollectionReport {
  readonly rootsKept: number;
  readonly rootsEvicted: number;
  readonly blobsDeleted: number;
  readonly directoriesDeleted: number;
  /** What the store is counted to have shrunk by; with `dryRun`, what it would. */
  readonly bytesFreed: number;
  /** Garbage that leases still hold: the next collection gets it. */
  readonly objectsHeld: number;
}

/**
 * Deletes what no root needs (docs/local-store.md, Collecting garbage). Synchronous: it has a
 * thread of its own.
 */
export function collectGarbage(
  index: StoreIndex,
  layout: StoreLayout,
  options: CollectionOptions,
  host: TaskHost,
): CollectionReport {
  return new Collection(index, layout, options, host).run();
}

interface Condemned {
  readonly directories: Uint8Array[];
  readonly blobs: Uint8Array[];
}

class Collection {
  readonly #index: StoreIndex;
  readonly #layout: StoreLayout;
  readonly #options: CollectionOptions;
  readonly #host: TaskHost;
  #logged = 0;
  #deleted = { blobs: 0, directories: 0, bytes: 0 };

  constructor(index: StoreIndex, layout: StoreLayout, options: CollectionOptions, host: TaskHost) {
    this.#index = index;
    this.#layout = layout;
    this.#options = options;
    this.#host = host;
  }

  run(): CollectionReport {
    if (this.#options.dryRun) return this.#rehearse();
    this.#enter();
    try {
      this.#rescueSeen();
      const choice = this.#choose();
      const evicted = this.#evict(choice);
      const epoch = condemnGarbage(this.#index, this.#layout, choice.marker, () =>
        this.#host.checkpoint(),
      );
      const limit = this.#awaitLeases(epoch);
      const condemned = this.#condemned(limit);
      this.#deleteAll("directories", parentsFirst(this.#index, condemned.directories), limit);
      this.#deleteAll("blobs", condemned.blobs, limit);
      this.#unlinkAll(limit);
      return {
        rootsKept: choice.keys.length + choice.evict.length - evicted,
        rootsEvicted: evicted,
        blobsDeleted: this.#deleted.blobs,
        directoriesDeleted: this.#deleted.directories,
        bytesFreed: this.#deleted.bytes,
        objectsHeld: this.#index.rows.condemned.getKeysCount(),
      };
    } finally {
      this.#leave();
    }
  }

  #rehearse(): CollectionReport {
    const { marker, keys, evict } = this.#choose();
    const found = { blobs: 0, directories: 0, bytes: 0 };
    for (const kind of ["directories", "blobs"] as const) {
      const page = { before: () => this.#host.checkpoint() };
      scanObjects(this.#index, kind, page, (digest, bytes) => {
        if (marker.has(kind, digest)) return;
        found[kind]++;
        found.bytes += bytes;
      });
    }
    return {
      rootsKept: keys.length,
      rootsEvicted: evict.length,
      blobsDeleted: found.blobs,
      directoriesDeleted: found.directories,
      bytesFreed: found.bytes,
      objectsHeld: 0,
    };
  }

  /** From here on, new roots are logged. */
  #enter(): void {
    const { rows } = this.#index;
    this.#index.transaction(() => {
      const other = rows.meta.getBinary(META_COLLECTOR);
      const owner = other === undefined ? "" : Buffer.from(other).toString();
      const leases = liveLeases(this.#index);
      if (owner !== "" && owner !== this.#options.owner && leases.has(owner)) {
        throw new CastoreError("UNAVAILABLE", "garbage is being collected by another process");
      }
      rows.meta.putSync(META_COLLECTOR, Buffer.from(this.#options.owner));
      this.#logged = readCounter(rows.meta, META_LOG);
    });
    // What an earlier collection left in the log is among the roots.
    this.#clearLog();
  }

  #leave(): void {
    const { meta } = this.#index.rows;
    this.#index.transaction(() => meta.removeSync(META_COLLECTOR), LEAVE_ROOM_BYTES);
  }

  #clearLog(): void {
    const { rows } = this.#index;
    this.#index.transaction(() => {
      for (const key of [...rows["root-log"].getKeys()]) {
        if (Buffer.from(key).readUIntBE(0, 6) <= this.#logged) rows["root-log"].removeSync(key);
      }
    });
  }

  #choose(): RootChoice {
    const { sizeMax } = this.#options;
    return chooseRoots(this.#index, { sizeMax, checkpoint: () => this.#host.checkpoint() });
  }

  /** Deletes the records that were chosen and not used since. */
  #evict({ evict, marker }: RootChoice): number {
    const { rows } = this.#index;
    let evicted = 0;
    for (let from = 0; from < evict.length; from += BATCH_OBJECTS) {
      this.#host.checkpoint();
      this.#index.transaction(() => {
        for (const { key, tick } of evict.slice(from, from + BATCH_OBJECTS)) {
          const name = Buffer.from(key, "latin1");
          if (readCounter(rows.used, name) !== tick) {
            marker.markRoot(key);
            continue;
          }
          rows.used.removeSync(name);
          if (rows.roots.removeSync(name)) evicted++;
        }
      });
    }
    return evicted;
  }

  /** The epoch before which nobody holds anything any more. */
  #awaitLeases(epoch: number): number {
    this.#host.renewLease();
    for (let waited = 0; ; waited += POLL_MS) {
      this.#host.checkpoint();
      this.#index.refresh();
      const leases = liveLeases(this.#index);
      const limit = Math.min(epoch + 1, ...[...leases.values()].map(({ since }) => since));
      if (limit > epoch || waited >= this.#options.waitMs) return limit;
      this.#host.pause(POLL_MS);
    }
  }

  #condemned(limit: number): Condemned {
    const condemned: Condemned = { directories: [], blobs: [] };
    this.#index.refresh();
    visitRows(this.#index.rows.condemned, {}, (key, value) => {
      if (value.readUIntLE(0, 6) < limit) {
        const list = key[0] === 0x62 ? condemned.blobs : condemned.directories;
        list.push(key.subarray(1));
      }
      return true;
    });
    return condemned;
  }

  #deleteAll(kind: ObjectRows, digests: readonly Uint8Array[], limit: number): void {
    for (let from = 0; from < digests.length; ) {
      this.#host.checkpoint();
      const batch = digests.slice(from, from + BATCH_OBJECTS);
      const done = this.#index.transaction(() => {
        if (this.#isNewsThere()) return false;
        for (const digest of batch) this.#delete(kind, digest, limit);
        return true;
      });
      if (done) from += batch.length;
      else this.#hearNews();
      if (kind === "blobs" && done) this.#unlinkAll(limit);
    }
  }

  /** Whether roots came, or something condemned was seen, that is not yet marked. */
  #isNewsThere(): boolean {
    const { rows } = this.#index;
    return readCounter(rows.meta, META_LOG) !== this.#logged || rows.seen.getKeysCount() > 0;
  }

  #hearNews(): void {
    this.#index.refresh();
    const { rows } = this.#index;
    const logged = readCounter(rows.meta, META_LOG);
    const rescued: Uint8Array[] = [];
    const marker = this.#rescuer(rescued);
    visitRows(rows["root-log"], {}, (_, value) => {
      const key = value.subarray(1).toString("latin1");
      if (value[0] === 0x72) marker.markRoot(key);
      else marker.markPin(key, rows.pins.getBinary(value.subarray(1)) ?? DELETED_PIN);
      return true;
    });
    this.#spare(rescued);
    this.#logged = logged;
    this.#clearLog();
    this.#rescueSeen();
  }

  /** Takes back the condemnation of what was seen and all below it. */
  #rescueSeen(): void {
    this.#index.refresh();
    const seen = [...this.#index.rows.seen.getKeys()].map((key) => Buffer.from(key));
    if (seen.length === 0) return;
    const rescued: Uint8Array[] = [];
    const marker = this.#rescuer(rescued);
    for (const digest of seen) marker.markDirectory(digest);
    this.#spare(rescued);
    this.#index.transaction(() => {
      for (const digest of seen) this.#index.rows.seen.removeSync(digest);
    });
  }

  #rescuer(rescued: Uint8Array[]): GarbageMarker {
    return new GarbageMarker(this.#index, {
      onMark: (kind, digest) => {
        const key = condemnedKey(kind, digest);
        if (this.#index.rows.condemned.doesExist(key)) rescued.push(key);
      },
    });
  }

  #spare(keys: readonly Uint8Array[]): void {
    this.#index.transaction(() => {
      for (const key of keys) this.#index.rows.condemned.removeSync(key);
    });
  }

  #delete(kind: ObjectRows, digest: Uint8Array, limit: number): void {
    const { rows } = this.#index;
    const key = condemnedKey(kind, digest);
    const epoch = peekRow(rows.condemned, key)?.readUIntLE(0, 6);
    if (epoch === undefined || epoch >= limit) return;
    rows.condemned.removeSync(key);
    const row = peekRow(rows[kind], digest);
    if (row === undefined) return;
    const file = kind === "blobs" && row[0] === 1;
    const bytes = countedRowBytes(kind, row);
    rows[kind].removeSync(digest);
    if (kind === "blobs") deleteChunkRows(this.#index, digest);
    // The empty blob and the empty directory have one digest: a row may mean the other.
    deleteRowsNaming(rows, digest);
    if (file) rows.unlinks.putSync(digest, Buffer.alloc(6));
    writeCounter(rows.meta, META_SIZE, readCounter(rows.meta, META_SIZE) - bytes);
    this.#deleted[kind]++;
    this.#deleted.bytes += bytes;
  }

  /** Removes the files of blobs that are gone, and orphans, with the lock held: nobody re-puts. */
  #unlinkAll(limit: number): void {
    const { rows } = this.#index;
    while (true) {
      this.#index.refresh();
      const batch: Buffer[] = [];
      visitRows(rows.unlinks, {}, (digest, value) => {
        if (value.readUIntLE(0, 6) < limit) batch.push(digest);
        return batch.length < BATCH_OBJECTS;
      });
      if (batch.length === 0) return;
      this.#host.checkpoint();
      this.#index.transaction(() => {
        for (const digest of batch) {
          if (!rows.unlinks.doesExist(digest)) continue;
          if (!rows.blobs.doesExist(digest)) this.#unlink(digest);
          rows.unlinks.removeSync(digest);
        }
      });
    }
  }

  #unlink(digest: Uint8Array): void {
    const path = this.#layout.blob(digestOfBytes(digest));
    try {
      rmSync(path, { force: true });
    } catch (cause) {
      throw storeError(`delete ${path}`, cause);
    }
  }
}

/** For a pin that was deleted meanwhile. */
const DELETED_PIN = encodePin({ name: "", keys: [], nodes: [] });
