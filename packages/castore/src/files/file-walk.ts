import { CastoreError } from "../castore-error.ts";
import type { Digest } from "../model/digest.ts";
import type { Entry } from "../model/directory.ts";
import type { StoredDirectory } from "../model/directory-closure.ts";
import type { FileNode, Node } from "../model/node.ts";
import type { CallOptions } from "../streams/byte-source.ts";

/**
 * The files at and below `root` in the order in which a NAR holds them: names ascending, depth
 * first. Each digest is given where it is met first, the empty blob never. A directory that is met
 * again is passed over, so that the work is bounded by the size of the closure, not of the tree.
 * Rejects INCOMPLETE for a directory that `get` lacks, INVALID for one blob of two sizes.
 */
export async function* walkFiles(
  root: Node,
  get: StoredDirectory,
  { signal }: CallOptions = {},
): AsyncGenerator<FileNode, void, undefined> {
  const sizes = new Map<Digest, number>();
  const entered = new Set<Digest>();
  const open: Iterator<Entry>[] = [];
  let node: Node | undefined = root;
  while (true) {
    if (node?.type === "file" && isNew(node, sizes)) yield node;
    if (node?.type === "directory" && !entered.has(node.digest)) {
      signal?.throwIfAborted();
      entered.add(node.digest);
      const directory = await get(node.digest);
      if (directory === undefined) {
        throw new CastoreError("INCOMPLETE", `directory ${node.digest} is missing`);
      }
      open.push(directory.entries[Symbol.iterator]());
    }
    const next = open.at(-1)?.next();
    if (next === undefined) return;
    node = next.done === true ? undefined : next.value.node;
    if (next.done === true) open.pop();
  }
}

function isNew({ digest, size }: FileNode, sizes: Map<Digest, number>): boolean {
  const known = sizes.get(digest);
  if (known === undefined) {
    sizes.set(digest, size);
    return size > 0;
  }
  if (known !== size) {
    throw new CastoreError("INVALID", `blob ${digest}: of ${known} and of ${size} bytes`);
  }
  return false;
}
