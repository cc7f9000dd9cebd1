import { readdirSync } from "node:fs";
import { join } from "node:path";
import { digestBytes } from "../model/digest.ts";
import { DigestSet } from "../model/digest-set.ts";
import { visitPointers } from "../model/directory-pointers.ts";
import type { GarbageMarker } from "./garbage-marker.ts";
import { type StoreIndex, visitRows } from "./store-index.ts";
import { digestOfBlobPath, type StoreLayout } from "./store-layout.ts";
import {
  condemnedKey,
  countedRowBytes,
  META_EPOCH,
  type ObjectRows,
  readCounter,
  writeCounter,
} from "./store-writes.ts";

/** Rows looked at in one read, so that none holds a snapshot for long. */
const SCAN_ROWS = 4096;

/**
 * Condemns what is not marked, and files that no row tells of. Returns the epoch that this was in;
 * the next has begun. Calls `checkpoint` often.
 */
export function condemnGarbage(
  index: StoreIndex,
  layout: StoreLayout,
  marker: GarbageMarker,
  checkpoint: () => void,
): number {
  const epoch = readCounter(index.rows.meta, META_EPOCH);
  const value = Buffer.alloc(6);
  value.writeUIntLE(epoch, 0, 6);
  for (const kind of ["directories", "blobs"] as const) {
    condemnObjects(index, kind, marker, value, checkpoint);
  }
  condemnOrphans(index, layout, value, checkpoint);
  index.transaction(() => writeCounter(index.rows.meta, META_EPOCH, epoch + 1));
  return epoch;
}

function condemnObjects(
  index: StoreIndex,
  kind: ObjectRows,
  marker: GarbageMarker,
  value: Uint8Array,
  before: () => void,
): void {
  const { condemned } = index.rows;
  const found: Uint8Array[] = [];
  const spared: Uint8Array[] = [];
  const after = (): void => {
    if (found.length === 0 && spared.length === 0) return;
    index.transaction(() => {
      for (const key of found.splice(0)) condemned.putSync(key, value);
      for (const key of spared.splice(0)) condemned.removeSync(key);
    });
  };
  scanObjects(index, kind, { before, after }, (digest) => {
    const key = condemnedKey(kind, digest);
    if (marker.has(kind, digest)) {
      if (condemned.doesExist(key)) spared.push(key);
    } else if (!condemned.doesExist(key)) {
      found.push(key);
    }
  });
}

/** A file without a row is left by a crash, or belongs to a put that holds a lease. */
export function condemnOrphans(
  index: StoreIndex,
  layout: StoreLayout,
  value: Uint8Array,
  checkpoint: () => void,
): void {
  const { blobs, unlinks } = index.rows;
  for (const shard of readdirSync(layout.blobs)) {
    checkpoint();
    index.refresh();
    const orphans = readdirSync(join(layout.blobs, shard))
      .map((name) => digestOfBlobPath(shard, name))
      .filter((digest) => digest !== undefined)
      .map(digestBytes)
      .filter((digest) => !blobs.doesExist(digest));
    if (orphans.length === 0) continue;
    index.transaction(() => {
      for (const digest of orphans) {
        if (!blobs.doesExist(digest) && !unlinks.doesExist(digest)) unlinks.putSync(digest, value);
      }
    });
  }
}

/** Visits all rows of `kind` with what each is counted as, page by page. */
export function scanObjects(
  index: StoreIndex,
  kind: ObjectRows,
  page: { readonly before?: () => void; readonly after?: () => void },
  visit: (digest: Buffer, bytes: number, row: Buffer) => void,
): void {
  let start: Uint8Array | undefined;
  for (let count = SCAN_ROWS; count === SCAN_ROWS; ) {
    page.before?.();
    index.refresh();
    count = 0;
    visitRows(index.rows[kind], { start }, (digest, row) => {
      visit(digest, countedRowBytes(kind, row), row);
      start = Buffer.concat([digest, Buffer.of(0)]);
      return ++count < SCAN_ROWS;
    });
    page.after?.();
  }
}

/**
 * Directories in an order in which none comes before one that refers to it: a directory that is
 * still there then never lacks what it once had.
 */
export function parentsFirst(index: StoreIndex, directories: readonly Uint8Array[]): Uint8Array[] {
  const dead = new DigestSet();
  for (const digest of directories) dead.add(digest);
  const entered = new DigestSet();
  const childrenFirst: Uint8Array[] = [];
  for (const root of directories) {
    const stack: { readonly digest: Uint8Array; readonly leave: boolean }[] = [
      { digest: root, leave: false },
    ];
    for (let top = stack.pop(); top !== undefined; top = stack.pop()) {
      const { digest, leave } = top;
      if (leave) childrenFirst.push(digest);
      if (leave || !entered.add(digest)) continue;
      stack.push({ digest, leave: true });
      const row = index.rows.directories.getBinary(digest);
      if (row === undefined) continue;
      visitPointers(row, (type, child) => {
        if (type === "directory" && dead.has(child)) stack.push({ digest: child, leave: false });
      });
    }
  }
  return childrenFirst.reverse();
}
