import { type InodeTable, TYPE } from "./inode-table.ts";

/** What is fetched along with the first small file that is read, and what it may grow to. */
const RUN_BYTES_MIN = 256 << 10;
const RUN_BYTES_MAX = 8 << 20;
/** Files up to this size belong to a first run, and at most to any. */
const FILE_BYTES_MIN = 16 << 10;
export const NEIGHBOUR_FILE_BYTES_MAX = (1 << 20) - 1;
/** A program that reads all may pass over so many entries: directories, links, large files. */
const GAP_MAX = 16;
/** Directories of which it is known how far they were fetched. */
const DIRECTORIES_MAX = 4_096;

/**
 * Which files to fetch along with one that is read: those that stand next to it in its directory.
 * A program that goes on where the last run ended gets twice as much each time, and larger files;
 * one that reads here and there, little.
 */
export class NeighbourRun {
  readonly #table: InodeTable;
  /** By directory: the first entry that was not looked at. The order is that of use. */
  readonly #ends = new Map<number, number>();
  #bytesMax = RUN_BYTES_MIN;

  constructor(table: InodeTable) {
    this.#table = table;
  }

  /** The files to fetch now that file `id`, which is not at hand, is read. */
  after(id: number): number[] {
    const table = this.#table;
    const directory = table.parentOf(id);
    if (!table.isPopulated(directory)) return [];
    const first = table.firstChildOf(directory);
    const known = this.#ends.get(directory);
    // In a run that is on its way, or was passed over by it.
    if (known !== undefined && id < known) return [];
    const isNear = id - (known ?? first) < GAP_MAX;
    if (!isNear) this.#bytesMax = RUN_BYTES_MIN;
    else if (known !== undefined) this.#bytesMax = Math.min(2 * this.#bytesMax, RUN_BYTES_MAX);
    return this.#run(id, directory, first + table.childCountOf(directory));
  }

  #run(id: number, directory: number, last: number): number[] {
    const table = this.#table;
    const isFirst = this.#bytesMax === RUN_BYTES_MIN;
    const sizeMax = isFirst
      ? FILE_BYTES_MIN
      : Math.min(this.#bytesMax / 4, NEIGHBOUR_FILE_BYTES_MAX);
    const found: number[] = [];
    let bytes = 0;
    let next = id + 1;
    for (; next < last && bytes < this.#bytesMax; next++) {
      const type = table.typeOf(next);
      const size = table.sizeOf(next);
      if (type !== TYPE.FILE && type !== TYPE.EXECUTABLE) continue;
      if (size === 0 || size > sizeMax) continue;
      found.push(next);
      bytes += size;
    }
    this.#ends.delete(directory);
    this.#ends.set(directory, next);
    for (const oldest of this.#ends.keys()) {
      if (this.#ends.size <= DIRECTORIES_MAX) break;
      this.#ends.delete(oldest);
    }
    return found;
  }
}
