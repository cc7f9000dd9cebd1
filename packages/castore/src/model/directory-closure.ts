import { CastoreError } from "../castore-error.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import { cancellable } from "../streams/cancellable.ts";
import { type Digest, digestOf } from "./digest.ts";
import type { Directory } from "./directory.ts";
import { DIRECTORY_BYTES_MAX, encodeDirectory } from "./directory-codec.ts";
import type { DirectoryNode } from "./node.ts";

/** Most distinct directories in one closure: about 200 MB of bookkeeping. */
export const CLOSURE_DIRECTORIES_MAX = 1 << 20;

/**
 * The two rules by which `size` of a pointer may count (docs/format.md, Size). A closure must be
 * consistent under one of them as a whole: a set of rules is narrowed pointer by pointer.
 */
const DEPLOYED = 1;
const SPEC = 2;
const EITHER = DEPLOYED | SPEC;

/** The rules under which `size` is what a pointer to a directory of these counts must carry. */
function rulesOf(size: number, counts: Counts): number {
  return (size === counts.size ? DEPLOYED : 0) | (size === counts.specSize ? SPEC : 0);
}

interface Counts {
  readonly size: number;
  readonly specSize: number;
}

interface Accepted extends Counts {
  /** The rules under which everything at and below this directory is consistent. */
  readonly rules: number;
}

/** A directory, its digest, and the encoding that the digest is of. */
export interface EncodedDirectory {
  readonly digest: Digest;
  readonly directory: Directory;
  readonly bytes: Buffer;
}

/** Encodes `directory` and names it. */
export function encodedDirectoryOf(directory: Directory): EncodedDirectory {
  const bytes = encodeDirectory(directory);
  return { digest: digestOf(bytes), directory, bytes };
}

/** Finds a directory that is already stored together with its closure. */
export type StoredDirectory = (digest: Digest) => Promise<Directory | undefined>;

export interface LeavesToRootOptions extends CallOptions {
  /** Where a child that the stream does not bring is looked up; by default it must bring all. */
  readonly stored?: StoredDirectory | undefined;
  readonly countMax?: number | undefined;
}

/**
 * Checks directories that come children before parents (`DirectoryService.putClosure`), yielding
 * each distinct one once, in order, with its digest. The return value, after the last, is the
 * root's digest. What it yields must not become visible before that.
 * Rejects INCOMPLETE for a child that did not come before and is not stored, INVALID for a size
 * that disagrees, no directory at all, or more than one that no other refers to, and EXHAUSTED
 * beyond `countMax` distinct directories or DIRECTORY_BYTES_MAX bytes in one.
 */
export async function* leavesToRoot(
  directories: AsyncIterable<Directory> | Iterable<Directory>,
  options: LeavesToRootOptions = {},
): AsyncGenerator<EncodedDirectory, Digest, undefined> {
  const countMax = options.countMax ?? CLOSURE_DIRECTORIES_MAX;
  const stored = options.stored ?? (async () => undefined);
  const accepted = new Map<Digest, Accepted>();
  const roots = new Set<Digest>();
  const given = new Set<Digest>();
  for await (const directory of cancellable(directories, options.signal)) {
    const encoded = encodedDirectoryOf(directory);
    const { digest, bytes } = encoded;
    if (given.has(digest)) continue;
    if (bytes.byteLength > DIRECTORY_BYTES_MAX) throw tooLong(encoded);
    if (given.size >= countMax) throw tooMany(countMax);
    let rules = EITHER;
    for (const { name, node } of directory.entries) {
      if (node.type !== "directory") continue;
      const child = accepted.get(node.digest) ?? (await acceptStored(node.digest, stored));
      if (child === undefined) {
        const message = `directory ${digest}: entry ${JSON.stringify(name)} points to `;
        throw new CastoreError("INCOMPLETE", `${message}${node.digest}, which did not come before`);
      }
      accepted.set(node.digest, child);
      rules &= child.rules & rulesOf(node.size, child);
      if (rules === 0) throw wrongSize("INVALID", node, child);
      roots.delete(node.digest);
    }
    // A child that was first found in the store and then given is referred to already.
    if (!accepted.has(digest)) roots.add(digest);
    accepted.set(digest, { size: directory.size, specSize: directory.specSize, rules });
    given.add(digest);
    yield encoded;
  }
  return onlyRoot(roots);
}

function onlyRoot(roots: ReadonlySet<Digest>): Digest {
  const [root, other] = roots;
  if (root === undefined) throw new CastoreError("INVALID", "directory closure: no directories");
  if (other !== undefined) {
    throw new CastoreError(
      "INVALID",
      `directory closure: nothing refers to ${root} nor to ${other}: want one root`,
    );
  }
  return root;
}

/**
 * A stored directory's closure is consistent, so the first of its pointers to a directory that is
 * not empty tells under which rule.
 */
async function acceptStored(
  digest: Digest,
  stored: StoredDirectory,
): Promise<Accepted | undefined> {
  const directory = await stored(digest);
  if (directory === undefined) return undefined;
  const { size, specSize } = directory;
  for (const { node } of directory.entries) {
    if (node.type !== "directory" || node.size === 0) continue;
    const child = await stored(node.digest);
    if (child === undefined) return undefined;
    return { size, specSize, rules: rulesOf(node.size, child) };
  }
  return { size, specSize, rules: EITHER };
}

/** Checks directories that come root first (`DirectoryService.getClosure`), one by one. */
export interface RootToLeaves {
  /**
   * Takes the next directory and returns false where it came before. Rejects CORRUPT for one that
   * was not asked for: not the root at first, later not referred to by any that came before; or
   * whose size disagrees with a pointer to it. Rejects EXHAUSTED beyond the limit.
   */
  accept(digest: Digest, directory: Directory): boolean;
  /** Whether everything that was referred to has come. */
  readonly complete: boolean;
  /** Rejects INCOMPLETE, naming a directory, unless everything that was referred to has come. */
  finish(): void;
}

/** `countMax` bounds the distinct directories referred to. */
export function createRootToLeaves(root: Digest, countMax = CLOSURE_DIRECTORIES_MAX): RootToLeaves {
  const pending = new Map<Digest, DirectoryNode | undefined>([[root, undefined]]);
  const accepted = new Map<Digest, Counts>();
  let rules = EITHER;
  const narrow = (pointer: DirectoryNode, counts: Counts): void => {
    rules &= rulesOf(pointer.size, counts);
    if (rules === 0) throw wrongSize("CORRUPT", pointer, counts);
  };
  const refer = (pointer: DirectoryNode): void => {
    const counts = accepted.get(pointer.digest);
    const other = pending.get(pointer.digest);
    if (counts !== undefined) narrow(pointer, counts);
    else if (other === undefined) pending.set(pointer.digest, pointer);
    else if (other.size !== pointer.size) {
      const sizes = `${other.size} and ${pointer.size}`;
      throw new CastoreError("CORRUPT", `directory ${pointer.digest}: pointed to as of ${sizes}`);
    }
    if (pending.size + accepted.size > countMax) throw tooMany(countMax);
  };
  return {
    accept(digest, directory) {
      if (accepted.has(digest)) return false;
      if (!pending.has(digest)) {
        throw new CastoreError("CORRUPT", `directory ${digest}: not asked for below ${root}`);
      }
      const pointer = pending.get(digest);
      const counts = { size: directory.size, specSize: directory.specSize };
      if (pointer !== undefined) narrow(pointer, counts);
      pending.delete(digest);
      accepted.set(digest, counts);
      for (const { node } of directory.entries) if (node.type === "directory") refer(node);
      return true;
    },
    get complete() {
      return pending.size === 0;
    },
    finish() {
      for (const digest of pending.keys()) {
        throw new CastoreError("INCOMPLETE", `directory ${digest} below ${root} is missing`);
      }
    },
  };
}

/**
 * The closure of `root` out of single lookups, as `DirectoryService.getClosure` wants it: breadth
 * first in name order, each digest once. `get` verifies; sizes are checked here.
 */
export async function* walkClosure(
  root: Digest,
  get: StoredDirectory,
  countMax = CLOSURE_DIRECTORIES_MAX,
): AsyncGenerator<Directory, void, undefined> {
  const first = await get(root);
  if (first === undefined) return;
  const check = createRootToLeaves(root, countMax);
  const queued = new Set<Digest>([root]);
  // A Set keeps the order of insertion and may grow while it is iterated.
  for (const digest of queued) {
    const directory = digest === root ? first : await get(digest);
    if (directory === undefined) {
      throw new CastoreError("INCOMPLETE", `directory ${digest} below ${root} is missing`);
    }
    check.accept(digest, directory);
    for (const { node } of directory.entries)
      if (node.type === "directory") queued.add(node.digest);
    yield directory;
  }
}

function tooMany(countMax: number): CastoreError {
  return new CastoreError("EXHAUSTED", `directory closure: the limit is ${countMax} directories`);
}

/** It could be stored, but not be read again. */
function tooLong({ digest, bytes, directory }: EncodedDirectory): CastoreError {
  const what = `directory ${digest} of ${directory.entries.length} entries`;
  const limit = `the limit is ${DIRECTORY_BYTES_MAX}`;
  return new CastoreError("EXHAUSTED", `${what}: ${bytes.byteLength} bytes, ${limit}`);
}

function wrongSize(
  code: "INVALID" | "CORRUPT",
  { digest, size }: DirectoryNode,
  counts: Counts,
): CastoreError {
  const want = `${counts.size} (deployed) or ${counts.specSize} (spec), as all others`;
  return new CastoreError(code, `directory ${digest}: wrong size ${size}, want ${want}`);
}
