import { CastoreError } from "../castore-error.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import type { Digest } from "./digest.ts";
import type { Directory } from "./directory.ts";
import { createRootToLeaves, encodedDirectoryOf, leavesToRoot } from "./directory-closure.ts";

/** Most encoded bytes of directories that came before their turn. */
const WAITING_BYTES_MAX = 64 << 20;

/**
 * Checks a closure that comes root first from elsewhere, and yields it as
 * `DirectoryService.getClosure` wants it: breadth first in name order, each digest once. Yields
 * nothing where nothing comes. Rejects CORRUPT and INCOMPLETE as createRootToLeaves does, and
 * EXHAUSTED where directories come so far out of order that too many must wait.
 */
export async function* breadthFirst(
  root: Digest,
  directories: AsyncIterable<Directory> | Iterable<Directory>,
  waitingBytesMax = WAITING_BYTES_MAX,
): AsyncGenerator<Directory, void, undefined> {
  const check = createRootToLeaves(root);
  const waiting = new Map<Digest, { readonly directory: Directory; readonly bytes: number }>();
  let waitingBytes = 0;
  // A Set keeps the order of insertion and may grow while it is iterated.
  const turns = new Set<Digest>([root]);
  const order = turns.values();
  let turn = order.next().value;
  let empty = true;
  for await (const directory of directories) {
    empty = false;
    const { digest, bytes } = encodedDirectoryOf(directory);
    if (!check.accept(digest, directory)) continue;
    waiting.set(digest, { directory, bytes: bytes.byteLength });
    waitingBytes += bytes.byteLength;
    if (digest !== turn && waitingBytes > waitingBytesMax) {
      const message = `directory closure of ${root}: too far out of order`;
      throw new CastoreError("EXHAUSTED", message);
    }
    while (turn !== undefined) {
      const next = waiting.get(turn);
      if (next === undefined) break;
      waiting.delete(turn);
      waitingBytes -= next.bytes;
      for (const { node } of next.directory.entries) {
        if (node.type === "directory") turns.add(node.digest);
      }
      turn = order.next().value;
      yield next.directory;
    }
  }
  if (!empty) check.finish();
}

/**
 * `directories`, which come children first, checked as leavesToRoot does, each once; what they
 * refer to but do not bring is taken from `getClosure` and put before its parent, so that a store
 * which takes closures only whole gets one. The return value is the root's digest.
 */
export async function* completeClosure(
  getClosure: (root: Digest) => AsyncIterable<Directory>,
  directories: AsyncIterable<Directory> | Iterable<Directory>,
  options: CallOptions,
): AsyncGenerator<Directory, Digest, undefined> {
  const fetched = new Map<Digest, Directory>();
  let unsent: Digest[] = [];
  const stored = async (digest: Digest): Promise<Directory | undefined> => {
    if (fetched.has(digest)) return fetched.get(digest);
    for await (const directory of getClosure(digest)) {
      fetched.set(encodedDirectoryOf(directory).digest, directory);
    }
    unsent.push(digest);
    return fetched.get(digest);
  };
  const checked = leavesToRoot(directories, { stored, signal: options.signal });
  let next = await checked.next();
  for (; next.done !== true; next = await checked.next()) {
    for (const digest of unsent) yield* childrenFirst(digest, fetched);
    unsent = [];
    yield next.value.directory;
  }
  return next.value;
}

/** The directories of `closure` that are below `root`, children first, `root` last. */
export function* childrenFirst(
  root: Digest,
  closure: ReadonlyMap<Digest, Directory>,
): Generator<Directory, void, undefined> {
  const done = new Set<Digest>();
  const stack: Digest[] = [root];
  while (true) {
    const digest = stack.at(-1);
    if (digest === undefined) return;
    const directory = closure.get(digest);
    if (directory === undefined || done.has(digest)) {
      stack.pop();
      continue;
    }
    const before = stack.length;
    for (const { node } of directory.entries) {
      if (node.type === "directory" && closure.has(node.digest) && !done.has(node.digest)) {
        stack.push(node.digest);
      }
    }
    if (stack.length > before) continue;
    stack.pop();
    done.add(digest);
    yield directory;
  }
}
