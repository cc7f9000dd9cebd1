import { type InodeTable, TYPE } from "./inode-table.ts";

/** Files up to this size come into the kernel's page cache; larger ones it reads ahead itself. */
export const STRETCH_FILE_BYTES_MAX = 64 << 10;
/** Files of one directory that are read one after the other before the next ones are foreseen. */
const IN_ORDER_MIN = 3;
/** What a first stretch brings, and what that may grow to. */
const STRETCH_BYTES_MIN = 256 << 10;
const STRETCH_BYTES_MAX = 4 << 20;
/** Entries that are looked at for one stretch. */
const STRETCH_ENTRIES_MAX = 4_096;
/** Other entries between two files that are still one after the other. */
const GAP_MAX = 64;
/** Directories that are read at the same time. */
const DIRECTORIES_MAX = 16;

/** The small files among the inodes [first, end). */
export interface Stretch {
  readonly first: number;
  readonly end: number;
}

/** How a directory is being read. */
interface Place {
  /** Where its last stretch begins, or its next file. */
  first: number;
  /** A program that reads on reads the next small file from here on. */
  next: number;
  inOrder: number;
  bytesMax: number;
}

/**
 * Which files a program that reads a directory in order will read next. It learns of a file only
 * when the kernel asks for it: so the last file of each stretch is left out, to tell whether the
 * program came so far. Who came to the end of a directory is believed earlier in the next one.
 */
export class ReadingOrder {
  readonly #table: InodeTable;
  /** The order is that of use. */
  readonly #places = new Map<number, Place>();
  /** How the directory was read that came to its end last. */
  #finished: Place | undefined;

  constructor(table: InodeTable) {
    this.#table = table;
  }

  /** What to bring now that the kernel asks for file `id` from its start. */
  after(id: number): Stretch | undefined {
    const table = this.#table;
    const directory = table.parentOf(id);
    if (!isSmallFile(table, id) || !table.isPopulated(directory)) return undefined;
    const place = this.#place(directory, id);
    // The program was faster than the stretch.
    if (id >= place.first && id < place.next) return undefined;
    place.inOrder = this.#leads(place.next, id) ? place.inOrder + 1 : 1;
    place.first = id + 1;
    place.next = id + 1;
    if (place.inOrder < IN_ORDER_MIN) return undefined;
    return this.#stretch(place, table.firstChildOf(directory) + table.childCountOf(directory));
  }

  #place(directory: number, id: number): Place {
    let place = this.#places.get(directory);
    if (place === undefined) {
      const { inOrder = 0, bytesMax = STRETCH_BYTES_MIN } = this.#finished ?? {};
      this.#finished = undefined;
      place = { first: id, next: id, inOrder, bytesMax };
    } else this.#places.delete(directory);
    this.#places.set(directory, place);
    for (const oldest of this.#places.keys()) {
      if (this.#places.size <= DIRECTORIES_MAX) break;
      this.#places.delete(oldest);
    }
    return place;
  }

  /** The files from `place.next` on, but for the last one, which `place` then leads to. */
  #stretch(place: Place, last: number): Stretch | undefined {
    const table = this.#table;
    const first = place.next;
    const end = Math.min(last, first + STRETCH_ENTRIES_MAX);
    let mark = 0;
    let files = 0;
    let bytes = 0;
    for (let at = first; at < end && bytes < place.bytesMax; at++) {
      if (!isSmallFile(table, at)) continue;
      mark = at;
      files++;
      bytes += table.sizeOf(at);
    }
    if (files === 0) this.#finished = place;
    if (files < 2) return undefined;
    place.bytesMax = Math.min(2 * place.bytesMax, STRETCH_BYTES_MAX);
    place.next = mark;
    return { first, end: mark };
  }

  /** Whether `id` is the next small file from `place` on. */
  #leads(place: number, id: number): boolean {
    if (id < place || id - place > GAP_MAX) return false;
    for (let at = place; at < id; at++) if (isSmallFile(this.#table, at)) return false;
    return true;
  }
}

/** Whether `id` is a file that a stretch brings. */
export function isSmallFile(table: InodeTable, id: number): boolean {
  const type = table.typeOf(id);
  const size = table.sizeOf(id);
  const isFile = type === TYPE.FILE || type === TYPE.EXECUTABLE;
  return isFile && size > 0 && size < STRETCH_FILE_BYTES_MAX;
}
