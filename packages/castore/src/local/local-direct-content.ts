import { closeSync, openSync } from "node:fs";
import { readRange } from "../files/read-range.ts";
import type { Digest } from "../model/digest.ts";
import type {
  DirectContent,
  DirectContentModule,
  DirectRange,
} from "../services/direct-content.ts";
import { INLINE_BYTES_MAX } from "./blob-row.ts";
import type { LocalStore } from "./local-store.ts";
import { openStoreIndex, peekRow } from "./store-index.ts";
import { storeLayout } from "./store-layout.ts";

/** Most blob files that are kept open. */
const OPEN_FILES_MAX = 512;

/** How another thread reads the blobs of `store` without waiting. */
export function localDirectContent(store: LocalStore): DirectContentModule {
  const { href } = new URL("./local-direct-content.js", import.meta.url);
  return { module: href, argument: store.path };
}

/** The blobs of the local store at `path`, which must be there. */
export function openDirectContent(path: string): DirectContent {
  const layout = storeLayout(path);
  const index = openStoreIndex(layout.index, { readOnly: true });
  const files = new OpenFiles((digest) => layout.blob(digest));

  function readInline(digest: Buffer, { start, end, at }: DirectRange, target: Buffer): boolean {
    const row = peekRow(index.rows.blobs, digest);
    const found = row !== undefined && row[0] === 0 && row.length > end;
    if (found) row.copy(target, at, 1 + start, 1 + end);
    // A read transaction that stays open would keep the index from reusing its pages.
    index.refresh();
    return found;
  }

  return {
    read(digest, range, target) {
      if (range.end <= INLINE_BYTES_MAX && readInline(digest, range, target)) return true;
      return files.read(digest, range, target);
    },
    descriptor: (digest) => files.descriptor(digest),
    close() {
      files.close();
      index.close().catch(() => {});
    },
  };
}

/** Blob files by digest, the least recently used closed first. */
class OpenFiles {
  readonly #pathOf: (digest: Digest) => string;
  readonly #descriptors = new Map<string, number>();

  constructor(pathOf: (digest: Digest) => string) {
    this.#pathOf = pathOf;
  }

  read(digest: Buffer, range: DirectRange, target: Buffer): boolean {
    try {
      // Shorter than it should be, it is not this blob.
      const count = readRange(this.#open(digest.toString("hex")), range, target);
      return count === range.end - range.start;
    } catch {
      return false; // absent, or a fault that shows again where the blob is opened properly
    }
  }

  descriptor(digest: Buffer): number | undefined {
    try {
      return this.#open(digest.toString("hex"));
    } catch {
      return undefined; // as above
    }
  }

  close(): void {
    for (const descriptor of this.#descriptors.values()) closeSync(descriptor);
    this.#descriptors.clear();
  }

  #open(digest: string): number {
    const known = this.#descriptors.get(digest);
    if (known !== undefined) {
      // The map's order is that of use.
      this.#descriptors.delete(digest);
      this.#descriptors.set(digest, known);
      return known;
    }
    const descriptor = openSync(this.#pathOf(digest as Digest), "r");
    for (const [oldest, unused] of this.#descriptors) {
      if (this.#descriptors.size < OPEN_FILES_MAX) break;
      this.#descriptors.delete(oldest);
      closeSync(unused);
    }
    this.#descriptors.set(digest, descriptor);
    return descriptor;
  }
}
