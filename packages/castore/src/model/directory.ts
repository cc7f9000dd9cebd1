import { CastoreError } from "../castore-error.ts";
import type { Node } from "./node.ts";
import type { PathComponent } from "./path-component.ts";

/** A name and the node it stands for. */
export interface Entry {
  readonly name: PathComponent;
  readonly node: Node;
}

/**
 * Names and the nodes they stand for, in bytewise order of name. Immutable and valid by
 * construction: names are unique and the sizes add up below 2^53.
 */
export class Directory {
  readonly entries: readonly Entry[];
  /**
   * snix's deployed count: each entry counts 2, plus the size of each child directory. It is what a
   * DirectoryNode that points here must carry (docs/format.md, Size).
   */
  readonly size: number;
  /** The count that castore.proto describes: each entry counts 1, plus the sizes of children. */
  readonly specSize: number;

  /** Of entries already sorted and checked; use `directoryOf` elsewhere. */
  private constructor(entries: readonly Entry[], childSizes: number) {
    this.entries = entries;
    this.size = 2 * entries.length + childSizes;
    this.specSize = entries.length + childSizes;
  }

  /**
   * Of entries in ascending order of name, which become the directory's own.
   * Rejects INVALID for a name out of order or twice, or sizes of 2^53 or more in sum.
   */
  static ofSorted(entries: readonly Entry[]): Directory {
    let childSizes = 0;
    let previous = "";
    for (const { name, node } of entries) {
      if (name <= previous) {
        const fault = name === previous ? "DuplicateName" : "WrongSorting";
        throw new CastoreError("INVALID", `directory entry ${JSON.stringify(name)}: ${fault}`);
      }
      previous = name;
      if (node.type === "directory") childSizes += node.size;
    }
    if (!Number.isSafeInteger(2 * entries.length + childSizes)) {
      throw new CastoreError("INVALID", "directory: SizeOverflow");
    }
    return new Directory(entries, childSizes);
  }

  /** The node called `name`, or undefined. */
  get(name: PathComponent): Node | undefined {
    let low = 0;
    let high = this.entries.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const entry = this.entries[middle];
      if (entry === undefined) return undefined;
      if (entry.name === name) return entry.node;
      if (entry.name < name) low = middle + 1;
      else high = middle;
    }
    return undefined;
  }
}

/** The directory of `entries` in any order. Rejects INVALID as `Directory.ofSorted` does. */
export function directoryOf(entries: Iterable<Entry>): Directory {
  const sorted = [...entries].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  return Directory.ofSorted(sorted);
}
