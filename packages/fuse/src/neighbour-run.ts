import { type InodeTable, TYPE } from "./inode-table.ts";
import { ROOT_ID } from "./protocol.ts";

/** What is fetched along with the first small file that is read, and what that may grow to. */
const RUN_BYTES_MIN = 256 << 10;
const RUN_BYTES_MAX = 8 << 20;
/** Entries that a run looks at: bounds what is opened at once. */
const RUN_ENTRIES_MAX = 4_096;
/** Files up to this size belong to a first run. */
const FILE_BYTES_MAX = 16 << 10;
/** Larger files begin no run. */
export const NEIGHBOUR_FILE_BYTES_MAX = (1 << 20) - 1;
/** A program that reads all may pass over so many entries: directories, links, what is here. */
const GAP_MAX = 16;
/** Programs that read at the same time. */
const WALKS_MAX = 16;
/** Directories of which it is known how far they were fetched. */
const DIRECTORIES_MAX = 4_096;

/** What is fetched ahead: of each file so many bytes from its start. */
export interface Run {
  readonly files: readonly { readonly id: number; readonly bytes: number }[];
  /** The file at whose first read `further` tells what is next; 0 where none. */
  readonly mark: number;
}

/** How far a program is ahead of which more was fetched. */
interface Walk {
  /** Where it may go on; the end of what the root's name stands for is 0. */
  places: readonly number[];
  mark: number;
  bytesMax: number;
}

const NOTHING: Run = { files: [], mark: 0 };

/**
 * Which files to fetch along with one that is read. First those that stand next to it in its
 * directory. A program that goes on where that ended, as one that reads a whole tree does, gets
 * twice as much each time, larger files, and files of the directories that come next; a run is then
 * asked for when the one before begins to be read. One that reads here and there gets little.
 */
export class NeighbourRun {
  readonly #table: InodeTable;
  readonly #bytesMax: number;
  /** By directory: the first entry that was not looked at. */
  readonly #ends = new Map<number, number>();
  /** The order is that of use. */
  readonly #walks: Walk[] = [];

  constructor(table: InodeTable, bytesMax = RUN_BYTES_MAX) {
    this.#table = table;
    this.#bytesMax = Math.max(RUN_BYTES_MIN, Math.min(bytesMax, RUN_BYTES_MAX));
  }

  /** What to fetch now that file `id`, which is not at hand, is read. */
  after(id: number): Run {
    const table = this.#table;
    const directory = table.parentOf(id);
    // In a run that is on its way, or was passed over by it.
    if (!table.isPopulated(directory) || id < (this.#ends.get(directory) ?? 0)) return NOTHING;
    const walk = this.#walks.find((one) => one.places.some((place) => this.#leads(place, id)));
    if (walk !== undefined) {
      this.#ends.set(directory, id + 1);
      return this.#goOn(walk, this.#following(id));
    }
    if (table.sizeOf(id) > NEIGHBOUR_FILE_BYTES_MAX) return NOTHING;
    return this.#begin(id, directory);
  }

  /** What to fetch now that the file `mark` of an earlier run is read. */
  further(mark: number): Run {
    const walk = this.#walks.find((one) => one.mark === mark);
    const [place = 0] = walk?.places ?? [];
    return walk === undefined || place === 0 ? NOTHING : this.#goOn(walk, place);
  }

  /** Whether a program that reads all comes from `place` to `id` soon. */
  #leads(place: number, id: number): boolean {
    const table = this.#table;
    // Who has read all of one name may go on with the next one.
    let at = place === 0 ? this.#below(table.rootOf(id)) : place;
    for (let steps = 0; at !== 0 && steps < GAP_MAX; steps++) {
      if (at === id) return true;
      at = this.#next(at);
    }
    return false;
  }

  /** Small files of the same directory. */
  #begin(id: number, directory: number): Run {
    const table = this.#table;
    const last = table.firstChildOf(directory) + table.childCountOf(directory);
    const files: { id: number; bytes: number }[] = [];
    let passed = 0;
    let bytes = 0;
    let at = id + 1;
    const end = Math.min(last, at + RUN_ENTRIES_MAX);
    for (; at < end && bytes < RUN_BYTES_MIN; at++) {
      const size = table.sizeOf(at);
      if (table.typeOf(at) === TYPE.DIRECTORY) passed ||= at;
      if (!this.#isFile(at) || size > FILE_BYTES_MAX) continue;
      files.push({ id: at, bytes: size });
      bytes += size;
    }
    this.#ends.set(directory, at);
    this.#forgetOldest();
    const goesOn = at < last ? at : this.#following(last - 1);
    // One that reads the directory only goes on at its end, one that reads all below that.
    const places = passed === 0 ? [goesOn] : [goesOn, passed];
    this.#walks.push({ places, mark: 0, bytesMax: RUN_BYTES_MIN });
    if (this.#walks.length > WALKS_MAX) this.#walks.shift();
    return { files, mark: 0 };
  }

  /** The files from `place` on, in the order of a walk, children after their directory. */
  #goOn(walk: Walk, place: number): Run {
    const table = this.#table;
    walk.bytesMax = Math.min(2 * walk.bytesMax, this.#bytesMax);
    const files: { id: number; bytes: number }[] = [];
    let at = place;
    let bytes = 0;
    for (let looked = 0; looked < RUN_ENTRIES_MAX; looked++, at = this.#next(at)) {
      if (at === 0 || bytes >= walk.bytesMax) break;
      const directory = table.parentOf(at);
      if (at < (this.#ends.get(directory) ?? 0)) continue;
      this.#ends.set(directory, at + 1);
      if (!this.#isFile(at)) continue;
      const size = Math.min(table.sizeOf(at), walk.bytesMax - bytes);
      files.push({ id: at, bytes: size });
      bytes += size;
    }
    this.#forgetOldest();
    walk.places = [at];
    walk.mark = files[0]?.id ?? 0;
    this.#walks.splice(this.#walks.indexOf(walk), 1);
    this.#walks.push(walk);
    return { files, mark: walk.mark };
  }

  #isFile(id: number): boolean {
    const type = this.#table.typeOf(id);
    return (type === TYPE.FILE || type === TYPE.EXECUTABLE) && this.#table.sizeOf(id) > 0;
  }

  /** What a walk comes to after `id`, its children first; 0 at the end. */
  #next(id: number): number {
    return this.#below(id) || this.#following(id);
  }

  /** The first entry of a directory; 0 where it has none, or none that are known. */
  #below(id: number): number {
    const table = this.#table;
    const isOpen = table.typeOf(id) === TYPE.DIRECTORY && table.isPopulated(id);
    return isOpen && table.childCountOf(id) > 0 ? table.firstChildOf(id) : 0;
  }

  /** What a walk comes to after `id` and all below it; 0 at the end. */
  #following(id: number): number {
    const table = this.#table;
    for (let at = id; ; ) {
      const parent = table.parentOf(at);
      if (parent <= ROOT_ID) return 0;
      if (at + 1 < table.firstChildOf(parent) + table.childCountOf(parent)) return at + 1;
      at = parent;
    }
  }

  #forgetOldest(): void {
    for (const oldest of this.#ends.keys()) {
      if (this.#ends.size <= DIRECTORIES_MAX) break;
      this.#ends.delete(oldest);
    }
  }
}
