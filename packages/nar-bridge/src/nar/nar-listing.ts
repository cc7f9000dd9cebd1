import {
  type ByteString,
  byteStringBytes,
  byteStringOfText,
  CastoreError,
  type PathComponent,
  parsePathComponent,
  parseSymlinkTarget,
  type SymlinkTarget,
} from "@castore/castore";
import type { NarVisitor } from "./nar-reader.ts";
import { NAR_DEPTH_MAX } from "./nar-token.ts";

/** A file in a listing. */
export interface ListedFile {
  readonly type: "regular";
  readonly size: number;
  readonly executable: boolean;
  /** Where in the NAR the contents begin; undefined where the listing does not say. */
  readonly narOffset: number | undefined;
}

export interface ListedSymlink {
  readonly type: "symlink";
  readonly target: SymlinkTarget;
}

export interface ListedDirectory {
  readonly type: "directory";
  /** In bytewise order of name. */
  readonly entries: readonly ListedEntry[];
}

export interface ListedEntry {
  readonly name: PathComponent;
  readonly node: ListedNode;
}

export type ListedNode = ListedFile | ListedSymlink | ListedDirectory;

/** Builds the listing of what it visits: by a NarReader, an ingest or a NarLayout. */
export interface NarListingBuilder extends NarVisitor {
  /** The listing of the tree that was visited. Throws INVALID unless it was visited whole. */
  finish(): ListedNode;
}

export function createNarListingBuilder(): NarListingBuilder {
  let root: ListedNode | undefined;
  const open: { readonly name: PathComponent | undefined; readonly entries: ListedEntry[] }[] = [];
  const add = (name: PathComponent | undefined, node: ListedNode): void => {
    if (name === undefined) root = node;
    else open.at(-1)?.entries.push({ name, node });
  };
  return {
    openDirectory(name) {
      open.push({ name, entries: [] });
    },
    closeDirectory() {
      const closed = open.pop();
      if (closed !== undefined) {
        add(closed.name, { type: "directory", entries: closed.entries });
      }
    },
    openFile(name, { size, executable, narOffset }) {
      add(name, { type: "regular", size, executable, narOffset });
    },
    closeFile() {},
    symlink(name, target) {
      add(name, { type: "symlink", target });
    },
    finish() {
      if (root === undefined) throw invalid("the tree was not visited whole");
      return root;
    },
  };
}

/**
 * The `.ls` file of a store path, version 1, as Nix writes it. Throws UNSUPPORTED where a name or a
 * target is not UTF-8, which JSON cannot say.
 */
export function formatNarListing(root: ListedNode): string {
  const parts: string[] = ['{"root":'];
  formatNode(root, parts);
  parts.push(',"version":1}');
  return parts.join("");
}

/** Without recursion: a tree may be NAR_DEPTH_MAX deep. */
function formatNode(root: ListedNode, parts: string[]): void {
  const open: { readonly entries: readonly ListedEntry[]; next: number }[] = [];
  const format = (node: ListedNode): void => {
    if (node.type === "directory") {
      parts.push('{"entries":{');
      open.push({ entries: node.entries, next: 0 });
    } else if (node.type === "symlink") {
      parts.push(`{"target":${quoted(node.target)},"type":"symlink"}`);
    } else {
      parts.push(node.executable ? '{"executable":true,' : "{");
      if (node.narOffset !== undefined) parts.push(`"narOffset":${node.narOffset},`);
      parts.push(`"size":${node.size},"type":"regular"}`);
    }
  };
  format(root);
  for (let last = open.at(-1); last !== undefined; last = open.at(-1)) {
    const entry = last.entries[last.next++];
    if (entry === undefined) {
      parts.push('},"type":"directory"}');
      open.pop();
    } else {
      parts.push(last.next > 1 ? "," : "", quoted(entry.name), ":");
      format(entry.node);
    }
  }
}

function quoted(string: ByteString): string {
  const bytes = byteStringBytes(string);
  const text = bytes.toString("utf8");
  if (!Buffer.from(text, "utf8").equals(bytes)) {
    throw new CastoreError("UNSUPPORTED", `listing: ${JSON.stringify(string)} is not UTF-8`);
  }
  return JSON.stringify(text);
}

/** Parses a `.ls` file. Throws INVALID. */
export function parseNarListing(text: string): ListedNode {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw invalid("not JSON", cause);
  }
  const { root, version } = recordOf(value);
  if (version !== 1) throw invalid(`version ${JSON.stringify(version)}: want 1`);
  return parseTree(root);
}

interface OpenDirectory {
  readonly depth: number;
  readonly values: Readonly<Record<string, unknown>>;
  readonly entries: ListedEntry[];
}

function parseTree(value: unknown): ListedNode {
  const open: OpenDirectory[] = [];
  const root = parseNode(value, 1, open);
  for (let directory = open.pop(); directory !== undefined; directory = open.pop()) {
    const { depth, values, entries } = directory;
    for (const [text, child] of Object.entries(values)) {
      const name = parsePathComponent(byteStringOf(text));
      entries.push({ name, node: parseNode(child, depth + 1, open) });
    }
    entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  }
  return root;
}

/** Parses a node but for the entries of a directory, which are added to `open`. */
function parseNode(value: unknown, depth: number, open: OpenDirectory[]): ListedNode {
  const node = recordOf(value);
  switch (node.type) {
    case "directory": {
      if (depth > NAR_DEPTH_MAX) throw invalid(`deeper than ${NAR_DEPTH_MAX} directories`);
      const entries: ListedEntry[] = [];
      open.push({ depth, values: recordOf(node.entries), entries });
      return { type: "directory", entries };
    }
    case "regular": {
      const { executable = false } = node;
      if (typeof executable !== "boolean") throw invalid("executable: want true or false");
      const narOffset =
        node.narOffset === undefined ? undefined : countOf(node.narOffset, "narOffset");
      return { type: "regular", size: countOf(node.size, "size"), executable, narOffset };
    }
    case "symlink":
      return { type: "symlink", target: parseSymlinkTarget(byteStringOf(node.target)) };
    default:
      throw invalid(`type ${JSON.stringify(node.type)}: want directory, regular or symlink`);
  }
}

function byteStringOf(value: unknown): ByteString {
  // A lone surrogate would turn into another character.
  if (typeof value !== "string" || Buffer.from(value, "utf8").toString("utf8") !== value) {
    throw invalid(`${JSON.stringify(value)}: want a string`);
  }
  return byteStringOfText(value);
}

function countOf(value: unknown, what: string): number {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value;
  throw invalid(`${what} ${JSON.stringify(value)}: want an integer from 0 to 2^53 - 1`);
}

function recordOf(value: unknown): Readonly<Record<string, unknown>> {
  if (isRecord(value)) return value;
  throw invalid("want an object");
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function invalid(what: string, cause?: unknown): CastoreError {
  return new CastoreError("INVALID", `listing: ${what}`, { cause });
}
