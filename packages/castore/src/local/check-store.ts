import {
  closeSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { messageOf, systemCodeOf } from "../castore-error.ts";
import { createDigestHasher, type Digest, digestOf, digestOfBytes } from "../model/digest.ts";
import { decodeDirectory } from "../model/directory-codec.ts";
import { decodeBlobRow } from "./blob-row.ts";
import { CHECKED_ROWS, rowFault } from "./check-rows.ts";
import { deleteChunkRows } from "./chunk-rows.ts";
import { condemnOrphans, scanObjects } from "./garbage-condemn.ts";
import { GarbageMarker } from "./garbage-marker.ts";
import { findIndexFault } from "./index-pages.ts";
import { decodeRoot } from "./local-root-store.ts";
import { decodeTableRow } from "./local-store-table.ts";
import { type Rows, type StoreIndex, visitRows } from "./store-index.ts";
import type { StoreLayout } from "./store-layout.ts";
import type { TaskHost } from "./store-task.ts";
import {
  countedRowBytes,
  deleteRowsNaming,
  META_EPOCH,
  META_SIZE,
  type ObjectRows,
  readCounter,
  writeCounter,
} from "./store-writes.ts";

const PIECE_BYTES = 1 << 20;
/** Faults that are listed; more are only counted. */
const FAULTS_MAX = 10_000;

export interface CheckOptions {
  /** Moves what is damaged to quarantine/, so that it is absent and can be fetched again. */
  readonly repair: boolean;
}

export interface StoreFault {
  readonly kind: "index" | "directory" | "blob" | "root" | "row" | "file" | "size";
  /** A digest in hex, a key, a path, or a page. */
  readonly name: string;
  readonly message: string;
}

export interface CheckReport {
  readonly directories: number;
  readonly blobs: number;
  readonly roots: number;
  readonly bytesRead: number;
  readonly faults: readonly StoreFault[];
  readonly faultCount: number;
  /** Objects that roots need and that are not there: of lazy roots, or after a repair. */
  readonly missing: number;
}

/** Verifies every row and file (docs/local-store.md, Checking). */
export function checkStore(
  index: StoreIndex,
  layout: StoreLayout,
  options: CheckOptions,
  host: TaskHost,
): CheckReport {
  return new StoreCheck(index, layout, options, host).run();
}

class StoreCheck {
  readonly #index: StoreIndex;
  readonly #layout: StoreLayout;
  readonly #options: CheckOptions;
  readonly #host: TaskHost;
  readonly #faults: StoreFault[] = [];
  readonly #counts = { directories: 0, blobs: 0, roots: 0, bytesRead: 0, faultCount: 0 };
  #quarantined = 0;

  constructor(index: StoreIndex, layout: StoreLayout, options: CheckOptions, host: TaskHost) {
    this.#index = index;
    this.#layout = layout;
    this.#options = options;
    this.#host = host;
  }

  run(): CheckReport {
    const damaged = findIndexFault(this.#layout.path);
    if (damaged !== undefined) {
      // Nothing can be said of rows; and reading them may end the process.
      this.#fault({ kind: "index", name: `page ${damaged.page}`, message: damaged.message });
      return { ...this.#counts, faults: this.#faults, missing: 0 };
    }
    for (const kind of ["directories", "blobs"] as const) this.#checkObjects(kind);
    this.#checkRoots();
    this.#checkTables();
    this.#checkOtherRows();
    this.#checkOrphans();
    this.#checkSize();
    return { ...this.#counts, faults: this.#faults, missing: this.#countMissing() };
  }

  #checkObjects(kind: ObjectRows): void {
    let page: (readonly [Digest, Buffer])[] = [];
    const before = (): void => {
      page = [];
    };
    const after = (): void => {
      for (const [digest, row] of page) {
        this.#host.checkpoint();
        this.#counts[kind]++;
        const inode = this.#inodeOf(kind, digest, row);
        const message = this.#objectFault(kind, digest, row);
        if (message === undefined || !this.#isStillThere(kind, digest)) continue;
        this.#fault({ kind: kind === "blobs" ? "blob" : "directory", name: digest, message });
        if (this.#options.repair) this.#quarantine(kind, digest, row, inode);
      }
    };
    scanObjects(this.#index, kind, { before, after }, (key, _, row) => {
      page.push([digestOfBytes(key), Buffer.from(row)]);
    });
  }

  #objectFault(kind: ObjectRows, digest: Digest, row: Buffer): string | undefined {
    try {
      if (kind === "directories") {
        if (digestOf(row) !== digest) return "the row has another digest";
        decodeDirectory(row, row.byteLength);
        return undefined;
      }
      const { inline, size } = decodeBlobRow(row, digest);
      if (inline === undefined) return this.#fileFault(digest, size);
      return digestOf(inline) === digest ? undefined : "the row has another digest";
    } catch (error) {
      return messageOf(error);
    }
  }

  #fileFault(digest: Digest, size: number): string | undefined {
    const file = openSync(this.#layout.blob(digest), "r");
    try {
      const hasher = createDigestHasher();
      const piece = Buffer.allocUnsafe(PIECE_BYTES);
      let read = 0;
      for (let got = -1; got !== 0; read += got) {
        this.#host.checkpoint();
        got = readSync(file, piece, 0, PIECE_BYTES, null);
        hasher.update(piece.subarray(0, got));
      }
      this.#counts.bytesRead += read;
      if (read !== size) return `the file has ${read} bytes, not ${size}`;
      return hasher.digest() === digest ? undefined : "the file has another digest";
    } finally {
      closeSync(file);
    }
  }

  /** The inode of the blob's file; undefined where it has none, or is missing. */
  #inodeOf(kind: ObjectRows, digest: Digest, row: Uint8Array): bigint | undefined {
    if (kind === "directories" || row[0] !== 1) return undefined;
    const options = { bigint: true, throwIfNoEntry: false } as const;
    return statSync(this.#layout.blob(digest), options)?.ino;
  }

  /** What was deleted while it was looked at is no fault. */
  #isStillThere(kind: ObjectRows, digest: Digest): boolean {
    this.#index.refresh();
    return this.#index.rows[kind].doesExist(Buffer.from(digest, "hex"));
  }

  /** Not what somebody has put anew since `damaged` was looked at, whose file was `inode`. */
  #quarantine(kind: ObjectRows, digest: Digest, damaged: Buffer, inode: bigint | undefined): void {
    const { rows } = this.#index;
    const key = Buffer.from(digest, "hex");
    this.#index.transaction(() => {
      const row = rows[kind].getBinary(key);
      if (row === undefined || !damaged.equals(row)) return;
      if (this.#inodeOf(kind, digest, row) !== inode) return;
      const path = join(this.#layout.quarantine, `${kind}-${digest}.${this.#quarantined++}`);
      if (kind === "blobs" && row[0] === 1) this.#moveAway(this.#layout.blob(digest), path);
      else writeFileSync(path, row);
      rows[kind].removeSync(key);
      const size = readCounter(rows.meta, META_SIZE) - countedRowBytes(kind, Buffer.from(row));
      writeCounter(rows.meta, META_SIZE, size);
      if (kind === "blobs") deleteChunkRows(this.#index, key);
      deleteRowsNaming(rows, key);
    });
  }

  #moveAway(from: string, to: string): void {
    try {
      renameSync(from, to);
    } catch (error) {
      if (systemCodeOf(error) !== "ENOENT") throw error;
    }
  }

  #checkRoots(): void {
    const damaged: Buffer[] = [];
    visitRows(this.#index.rows.roots, {}, (key, row) => {
      this.#counts.roots++;
      const name = key.toString("latin1");
      if (this.#passes("root", name, () => decodeRoot(name, row))) return true;
      damaged.push(Buffer.from(key));
      return true;
    });
    const { roots } = this.#index.rows;
    this.#removeAll(damaged, (key) => this.#setAside("root", roots, key));
  }

  #checkTables(): void {
    const damaged: Buffer[] = [];
    visitRows(this.#index.rows.tables, {}, (key, row) => {
      const name = key.toString("latin1").replace("\0", "/");
      if (!this.#passes("row", name, () => decodeTableRow(name, row))) {
        damaged.push(Buffer.from(key));
      }
      return true;
    });
    const { tables } = this.#index.rows;
    this.#removeAll(damaged, (key) => this.#setAside("row", tables, key));
  }

  #checkOtherRows(): void {
    for (const kind of CHECKED_ROWS) {
      const rows = this.#index.rows[kind];
      const damaged: Buffer[] = [];
      visitRows(rows, {}, (key, row) => {
        this.#host.checkpoint();
        const message = rowFault(this.#index, kind, key, row);
        if (message === undefined) return true;
        const name = kind === "pins" ? key.toString("latin1") : key.toString("hex");
        this.#fault({ kind: "row", name: `${kind}/${name}`, message });
        damaged.push(Buffer.from(key));
        return true;
      });
      this.#removeAll(damaged, (key) => {
        if (kind === "pins") this.#setAside("pin", rows, key);
        else rows.removeSync(key);
      });
    }
  }

  #removeAll(keys: readonly Buffer[], remove: (key: Buffer) => void): void {
    if (!this.#options.repair || keys.length === 0) return;
    this.#index.transaction(() => {
      for (const key of keys) remove(key);
    });
  }

  #setAside(kind: string, rows: Rows, key: Buffer): void {
    const path = join(this.#layout.quarantine, `${kind}.${this.#quarantined++}`);
    writeFileSync(path, rows.getBinary(key) ?? "");
    rows.removeSync(key);
  }

  /** Files without a row; the next collection removes them once no put can be making them. */
  #checkOrphans(): void {
    const epoch = Buffer.alloc(6);
    epoch.writeUIntLE(readCounter(this.#index.rows.meta, META_EPOCH), 0, 6);
    if (this.#options.repair) {
      condemnOrphans(this.#index, this.#layout, epoch, () => this.#host.checkpoint());
    }
    for (const shard of readdirSync(this.#layout.blobs)) {
      for (const name of readdirSync(join(this.#layout.blobs, shard))) {
        if (/^[0-9a-f]{62}$/.test(name) && /^[0-9a-f]{2}$/.test(shard)) continue;
        const message = "the file is no blob";
        this.#fault({ kind: "file", name: join(shard, name), message });
      }
    }
  }

  #checkSize(): void {
    const { meta } = this.#index.rows;
    this.#index.transaction(() => {
      let size = 0;
      for (const kind of ["directories", "blobs"] as const) {
        scanObjects(this.#index, kind, {}, (_, bytes) => {
          size += bytes;
        });
      }
      const counted = readCounter(meta, META_SIZE);
      if (size === counted) return;
      this.#fault({ kind: "size", name: "size", message: `counted ${counted}, is ${size}` });
      if (this.#options.repair) writeCounter(meta, META_SIZE, size);
    });
  }

  #countMissing(): number {
    let missing = 0;
    const keys: string[] = [];
    visitRows(this.#index.rows.roots, {}, (key) => keys.push(key.toString("latin1")) > 0);
    const marker = new GarbageMarker(this.#index, {
      checkpoint: () => this.#host.checkpoint(),
      onMark: (kind, digest) => {
        if (!this.#index.rows[kind].doesExist(digest)) missing++;
      },
    });
    try {
      for (const key of keys) marker.markRoot(key);
    } catch {
      // What is damaged was listed above; how much lies below it cannot be known.
    }
    return missing;
  }

  #passes(kind: StoreFault["kind"], name: string, check: () => unknown): boolean {
    try {
      check();
      return true;
    } catch (error) {
      const cause = messageOf(error);
      this.#fault({ kind, name, message: cause });
      return false;
    }
  }

  #fault(fault: StoreFault): void {
    this.#counts.faultCount++;
    if (this.#faults.length < FAULTS_MAX) this.#faults.push(fault);
  }
}
