import type { Digest } from "./digest.ts";
import type { SymlinkTarget } from "./symlink-target.ts";

/** A regular file: `size` bytes of content named by `digest`. */
export interface FileNode {
  readonly type: "file";
  readonly digest: Digest;
  /** Bytes, ≤ 2^53 − 1. */
  readonly size: number;
  readonly executable: boolean;
}

/** A directory named by the digest of its canonical encoding. */
export interface DirectoryNode {
  readonly type: "directory";
  readonly digest: Digest;
  /** snix's deployed count: every entry below, counted twice (docs/format.md, Size). */
  readonly size: number;
}

export interface SymlinkNode {
  readonly type: "symlink";
  readonly target: SymlinkTarget;
}

/** What a name in a directory, or a root, stands for. A node has no name of its own. */
export type Node = FileNode | DirectoryNode | SymlinkNode;

/** Whether `a` and `b` are the same node. */
export function nodesEqual(a: Node, b: Node): boolean {
  if (a.type === "symlink") return b.type === "symlink" && a.target === b.target;
  if (b.type === "symlink" || a.type !== b.type) return false;
  if (a.digest !== b.digest || a.size !== b.size) return false;
  return a.type !== "file" || b.type !== "file" || a.executable === b.executable;
}
