import {
  type CallOptions,
  CastoreError,
  type Digest,
  type Directory,
  type DirectoryService,
  type FileNode,
  type Node,
  type PathComponent,
  type SymlinkTarget,
} from "@castore/castore";
import { NAR_DEPTH_MAX, NAR_TOKENS, paddedLength, paddingOf } from "./nar-token.ts";

/** A root node and every directory below it. */
export interface NarTree {
  readonly root: Node;
  readonly directories: ReadonlyMap<Digest, Directory>;
}

/** Fetches the directories below `root`. Rejects INCOMPLETE where one is missing. */
export async function loadNarTree(
  root: Node,
  directories: DirectoryService,
  options: CallOptions = {},
): Promise<NarTree> {
  const closure = new Map<Digest, Directory>();
  if (root.type !== "directory") return { root, directories: closure };
  // They come breadth first, each once: that tells the digest of each. A Set may grow meanwhile.
  const digests = new Set<Digest>([root.digest]);
  const order = digests.values();
  for await (const directory of directories.getClosure(root.digest, options)) {
    const digest = order.next().value;
    if (digest === undefined) break;
    closure.set(digest, directory);
    for (const { node } of directory.entries) {
      if (node.type === "directory") digests.add(node.digest);
    }
  }
  for (const digest of digests) if (!closure.has(digest)) throw missing(digest);
  return { root, directories: closure };
}

function missing(digest: Digest): CastoreError {
  return new CastoreError("INCOMPLETE", `directory ${digest} is missing`);
}

/** What the NAR of a tree is made of. */
export interface NarMeasure {
  /** Regular files, each counted as often as it stands in the tree. */
  readonly files: number;
  /** Bytes of their contents. */
  readonly contentBytes: number;
  /** Bytes of everything else. */
  readonly literalBytes: number;
  /** Directories within each other. */
  readonly depth: number;
}

/**
 * Measures each distinct directory once, so that a tree in which few directories stand very often
 * takes no longer. Throws EXHAUSTED for a NAR of 2^53 bytes or more, or deeper than NAR_DEPTH_MAX.
 */
export function measureNar(tree: NarTree): NarMeasure {
  const measured = new Map<Digest, NarMeasure>();
  for (const [digest, directory] of childrenFirst(tree)) {
    let files = 0;
    let contentBytes = 0;
    let literalBytes = DIRECTORY_BYTES;
    let depth = 1;
    for (const { name, node } of directory.entries) {
      const part = measureNode(node, measured);
      files += part.files;
      contentBytes += part.contentBytes;
      literalBytes += ENTRY_BYTES + paddedLength(name.length) + part.literalBytes;
      depth = Math.max(depth, part.depth + 1);
    }
    if (depth > NAR_DEPTH_MAX) {
      const message = `more than ${NAR_DEPTH_MAX} directories within each other`;
      throw new CastoreError("EXHAUSTED", `directory ${digest}: ${message}`);
    }
    measured.set(digest, { files, contentBytes, literalBytes, depth });
  }
  const root = measureNode(tree.root, measured);
  const literalBytes = NAR_TOKENS.start.byteLength + root.literalBytes;
  if (!Number.isSafeInteger(literalBytes + root.contentBytes)) {
    throw new CastoreError("EXHAUSTED", "NAR: its size is 2^53 bytes or more");
  }
  return { ...root, literalBytes };
}

const WORD_BYTES = 8;
const END_BYTES = NAR_TOKENS.end.byteLength;
const DIRECTORY_BYTES = NAR_TOKENS.directory.byteLength + END_BYTES;
const FILE_BYTES =
  NAR_TOKENS.regular.byteLength + NAR_TOKENS.contents.byteLength + WORD_BYTES + END_BYTES;
const SYMLINK_BYTES =
  NAR_TOKENS.symlink.byteLength + NAR_TOKENS.target.byteLength + WORD_BYTES + END_BYTES;
const ENTRY_BYTES =
  NAR_TOKENS.entry.byteLength +
  NAR_TOKENS.entryName.byteLength +
  WORD_BYTES +
  NAR_TOKENS.entryNode.byteLength +
  END_BYTES;

function measureNode(node: Node, measured: ReadonlyMap<Digest, NarMeasure>): NarMeasure {
  switch (node.type) {
    case "directory": {
      const measure = measured.get(node.digest);
      if (measure === undefined) throw missing(node.digest);
      return measure;
    }
    case "file": {
      const marker = node.executable ? NAR_TOKENS.executable.byteLength : 0;
      const literalBytes = FILE_BYTES + marker + paddingOf(node.size);
      return { files: 1, contentBytes: node.size, literalBytes, depth: 0 };
    }
    case "symlink": {
      const literalBytes = SYMLINK_BYTES + paddedLength(node.target.length);
      return { files: 0, contentBytes: 0, literalBytes, depth: 0 };
    }
  }
}

/** Each distinct directory after all that it refers to. */
function* childrenFirst({ root, directories }: NarTree): Generator<[Digest, Directory], void> {
  if (root.type !== "directory") return;
  const done = new Set<Digest>();
  const stack = [root.digest];
  for (let digest = stack.at(-1); digest !== undefined; digest = stack.at(-1)) {
    const directory = directories.get(digest);
    if (directory === undefined) throw missing(digest);
    const before = stack.length;
    if (!done.has(digest)) {
      for (const { node } of directory.entries) {
        if (node.type === "directory" && !done.has(node.digest)) stack.push(node.digest);
      }
    }
    if (stack.length > before) continue;
    stack.pop();
    if (done.has(digest)) continue;
    done.add(digest);
    yield [digest, directory];
  }
}

/** What stands in a tree, in the order of its NAR. A name is undefined for the root. */
export interface NarTreeVisitor {
  openDirectory(name: PathComponent | undefined): void;
  closeDirectory(): void;
  file(name: PathComponent | undefined, file: FileNode): void;
  symlink(name: PathComponent | undefined, target: SymlinkTarget): void;
}

/** Visits all that stands in the tree, which must have been measured: that bounds its depth. */
export function walkNarTree(tree: NarTree, visitor: NarTreeVisitor): void {
  const open: { readonly entries: Directory["entries"]; next: number }[] = [];
  const visit = (name: PathComponent | undefined, node: Node): void => {
    if (node.type === "file") {
      visitor.file(name, node);
    } else if (node.type === "symlink") {
      visitor.symlink(name, node.target);
    } else {
      const directory = tree.directories.get(node.digest);
      if (directory === undefined) throw missing(node.digest);
      visitor.openDirectory(name);
      open.push({ entries: directory.entries, next: 0 });
    }
  };
  visit(undefined, tree.root);
  for (let last = open.at(-1); last !== undefined; last = open.at(-1)) {
    const entry = last.entries[last.next++];
    if (entry !== undefined) {
      visit(entry.name, entry.node);
    } else {
      open.pop();
      visitor.closeDirectory();
    }
  }
}
