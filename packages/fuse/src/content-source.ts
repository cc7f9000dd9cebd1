import { closeSync, openSync, readSync } from "node:fs";
import type { InodeTable } from "./inode-table.ts";

/** Bytes [start, end) of file `id`. */
export interface ContentRange {
  readonly id: number;
  readonly start: number;
  readonly end: number;
}

/** File contents that can be read at once. */
export interface ContentSource {
  /** Puts the range into `target` at `at`; false where it is not at hand in full. */
  read(range: ContentRange, target: Buffer, at: number): boolean;
  close(): void;
}

/** Most blob files that are kept open. */
const OPEN_FILES_MAX = 512;

/**
 * Contents from a directory of whole blobs, `<2 hex digits>/<62 hex digits>`, as a local store
 * keeps them. What lies there was verified before it got its name.
 */
export function createBlobFileSource(table: InodeTable, directory: string): ContentSource {
  const descriptors = new Map<number, number>();

  function open(id: number): number | undefined {
    const known = descriptors.get(id);
    if (known !== undefined) {
      // The map's order is that of use.
      descriptors.delete(id);
      descriptors.set(id, known);
      return known;
    }
    const digest = table.digestOf(id);
    const descriptor = tryOpen(`${directory}/${digest.slice(0, 2)}/${digest.slice(2)}`);
    if (descriptor === undefined) return undefined;
    for (const [oldest, unused] of descriptors) {
      if (descriptors.size < OPEN_FILES_MAX) break;
      descriptors.delete(oldest);
      closeSync(unused);
    }
    descriptors.set(id, descriptor);
    return descriptor;
  }

  return {
    read({ id, start, end }, target, at) {
      const descriptor = open(id);
      if (descriptor === undefined) return false;
      return readFully(descriptor, { target, at, start, end });
    },
    close() {
      for (const descriptor of descriptors.values()) closeSync(descriptor);
      descriptors.clear();
    },
  };
}

/** Nothing is at hand. */
export const NO_CONTENT: ContentSource = {
  read: () => false,
  close() {},
};

function readFully(
  descriptor: number,
  { target, at, start, end }: { target: Buffer; at: number; start: number; end: number },
): boolean {
  try {
    let position = start;
    while (position < end) {
      const n = readSync(descriptor, target, at + position - start, end - position, position);
      if (n === 0) return false; // shorter than its node says: not this blob
      position += n;
    }
    return true;
  } catch {
    return false; // as above: a fault of the disk shows where the blob is opened again
  }
}

function tryOpen(path: string): number | undefined {
  try {
    return openSync(path, "r");
  } catch {
    // Absent, or no more descriptors: whoever loads what is missing will say so if it matters.
    return undefined;
  }
}
