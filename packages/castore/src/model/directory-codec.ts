import { CastoreError } from "../castore-error.ts";
import { Directory, type Entry } from "./directory.ts";
import {
  NODE_FIELDS,
  namedNodeLength,
  type RawEntry,
  readNamedNode,
  writeNamedNode,
} from "./node-codec.ts";
import { pathComponentFault } from "./path-component.ts";
import { WIRE_BYTES, WireReader } from "./wire-reader.ts";
import { varintLength, WireWriter } from "./wire-writer.ts";

/** Most bytes of a directory's encoding that are read, unless the caller says otherwise. */
export const DIRECTORY_BYTES_MAX = 1 << 20;

const NODE_TYPES = ["directory", "file", "symlink"] as const;

/** The canonical encoding: what the digest is of. */
export function encodeDirectory(directory: Directory): Buffer {
  let size = 0;
  for (const { name, node } of directory.entries) {
    const length = namedNodeLength(name, node);
    size += 1 + varintLength(length) + length;
  }
  const writer = new WireWriter(size);
  for (const type of NODE_TYPES) {
    const tag = (NODE_FIELDS[type] << 3) | WIRE_BYTES;
    for (const { name, node } of directory.entries) {
      if (node.type === type) writeNamedNode(writer, tag, name, node);
    }
  }
  return writer.buffer;
}

/**
 * Decodes a directory. Rejects INVALID unless `bytes` is the one canonical encoding of a valid
 * directory; a message that breaks several rules is refused for the one that docs/format.md
 * lists first. Rejects EXHAUSTED over `bytesMax`.
 */
export function decodeDirectory(bytes: Uint8Array, bytesMax = DIRECTORY_BYTES_MAX): Directory {
  if (bytes.byteLength > bytesMax) {
    throw new CastoreError(
      "EXHAUSTED",
      `directory of ${bytes.byteLength} bytes: the limit is ${bytesMax}`,
    );
  }
  const reader = new WireReader(bytes, "directory");
  const lists: [RawEntry[], RawEntry[], RawEntry[]] = [[], [], []];
  NODE_TYPES.forEach((type, index) => {
    while (reader.takeTag(NODE_FIELDS[type], WIRE_BYTES)) {
      lists[index]?.push(readNamedNode(reader, type, "directory"));
    }
  });
  if (!reader.done) reader.fail("field is unknown or out of order");
  return directoryOfLists(lists);
}

/** The three lists of a Directory message, merged. Rejects INVALID. */
export function directoryOfLists(lists: readonly (readonly RawEntry[])[]): Directory {
  for (const list of lists) checkSorted(list);
  const checked = lists.map((list) => list.map(checkedEntry));
  return Directory.ofSorted(checked.reduce(mergeSorted, []));
}

function checkSorted(list: readonly RawEntry[]): void {
  let previous = "";
  for (const { name } of list) {
    if (name <= previous) {
      if (name === "") throw invalidName(name);
      const fault = name === previous ? "DuplicateName" : "WrongSorting";
      throw new CastoreError("INVALID", `directory entry ${JSON.stringify(name)}: ${fault}`);
    }
    previous = name;
  }
}

function checkedEntry(entry: RawEntry): Entry {
  if (pathComponentFault(entry.name) !== undefined) throw invalidName(entry.name);
  return entry as Entry;
}

function invalidName(name: string): CastoreError {
  const fault = pathComponentFault(name);
  return new CastoreError(
    "INVALID",
    `directory entry ${JSON.stringify(name)}: InvalidName(${fault})`,
  );
}

function mergeSorted(left: readonly Entry[], right: readonly Entry[]): readonly Entry[] {
  if (left.length === 0) return right;
  if (right.length === 0) return left;
  const merged: Entry[] = [];
  let i = 0;
  let j = 0;
  while (i < left.length || j < right.length) {
    const a = left[i];
    const b = right[j];
    if (a !== undefined && (b === undefined || a.name <= b.name)) {
      merged.push(a);
      i++;
    } else if (b !== undefined) {
      merged.push(b);
      j++;
    }
  }
  return merged;
}
