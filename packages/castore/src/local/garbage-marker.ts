import { CastoreError } from "../castore-error.ts";
import { digestBytes, digestOf, digestOfBytes } from "../model/digest.ts";
import { DigestSet } from "../model/digest-set.ts";
import { visitPointers } from "../model/directory-pointers.ts";
import type { Node } from "../model/node.ts";
import { decodeRoot } from "./local-root-store.ts";
import { decodePin } from "./pin-row.ts";
import { peekRow, type StoreIndex } from "./store-index.ts";
import { countedRowBytes, type ObjectRows } from "./store-writes.ts";

export interface GarbageMarkerOptions {
  /** Adds up the bytes of what is marked: a lookup more for each blob. */
  readonly count?: boolean;
  /** Called for each object that is marked for the first time, there or not. */
  readonly onMark?: (rows: ObjectRows, digest: Uint8Array) => void;
  /** Called often; throws to end the work. */
  readonly checkpoint?: () => void;
}

/** Finds everything that roots need. What a root lacks, it lacks: roots may be incomplete. */
export class GarbageMarker {
  readonly directories = new DigestSet();
  readonly blobs = new DigestSet();
  /** Keys of the root records that were marked. */
  readonly keys = new Set<string>();
  readonly #index: StoreIndex;
  readonly #options: GarbageMarkerOptions;
  #bytes = 0;

  constructor(index: StoreIndex, options: GarbageMarkerOptions = {}) {
    this.#index = index;
    this.#options = options;
  }

  /** What all that was marked is counted as; 0 unless it is to be counted. */
  get bytes(): number {
    return this.#bytes;
  }

  has(rows: ObjectRows, digest: Uint8Array): boolean {
    return (rows === "blobs" ? this.blobs : this.directories).has(digest);
  }

  /** Marks the record, those it references, and so on. */
  markRoot(key: string): void {
    const pending = [key];
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      if (this.keys.has(next)) continue;
      const row = this.#index.rows.roots.getBinary(Buffer.from(next, "latin1"));
      if (row === undefined) continue;
      this.keys.add(next);
      const { node, references } = decodeRoot(next, row);
      this.markNode(node);
      pending.push(...references);
    }
  }

  markPin(name: string, row: Uint8Array): boolean {
    const pin = decodePin(name, row);
    if (!pin.holds) return false;
    for (const key of pin.keys) this.markRoot(key);
    for (const node of pin.nodes) this.markNode(node);
    return true;
  }

  markNode(node: Node): void {
    if (node.type === "directory") this.markDirectory(digestBytes(node.digest));
    else if (node.type === "file") this.markBlob(digestBytes(node.digest));
  }

  markDirectory(root: Uint8Array): void {
    const pending: Uint8Array[] = [];
    const meet = (type: "directory" | "file", digest: Uint8Array): void => {
      if (type === "file") this.markBlob(digest);
      else if (this.directories.add(digest)) pending.push(digest);
    };
    meet("directory", root);
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      this.#options.checkpoint?.();
      this.#options.onMark?.("directories", next);
      const row = this.#index.rows.directories.getBinary(next);
      if (row === undefined) continue;
      const digest = digestOfBytes(next);
      if (digestOf(row) !== digest) {
        // What it referred to cannot be known, so nothing may be deleted.
        throw new CastoreError("CORRUPT", `directory ${digest}: damaged; fsck repairs it`);
      }
      if (this.#options.count) this.#bytes += countedRowBytes("directories", row);
      visitPointers(row, meet);
    }
  }

  markBlob(digest: Uint8Array): void {
    if (!this.blobs.add(digest)) return;
    this.#options.onMark?.("blobs", digest);
    const row = this.#options.count ? peekRow(this.#index.rows.blobs, digest) : undefined;
    if (row !== undefined) this.#bytes += countedRowBytes("blobs", row);
  }
}
