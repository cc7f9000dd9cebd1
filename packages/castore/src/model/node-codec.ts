import { CastoreError, messageOf } from "../castore-error.ts";
import { DIGEST_BYTES, type Digest } from "./digest.ts";
import type { DirectoryNode, FileNode, Node, SymlinkNode } from "./node.ts";
import { type SymlinkTarget, symlinkTargetFault } from "./symlink-target.ts";
import { WIRE_BYTES, WIRE_VARINT, WireReader } from "./wire-reader.ts";
import { varintLength, WireWriter } from "./wire-writer.ts";

/** Field numbers of the lists in Directory and of the cases in Entry: the same three. */
export const NODE_FIELDS = { directory: 1, file: 2, symlink: 3 } as const;

/** Bytes of the message {name, node}. */
export function namedNodeLength(name: string, node: Node): number {
  const named = name.length === 0 ? 0 : 1 + varintLength(name.length) + name.length;
  switch (node.type) {
    case "directory":
      return named + 2 + DIGEST_BYTES + uintLength(node.size);
    case "file":
      return named + 2 + DIGEST_BYTES + uintLength(node.size) + (node.executable ? 2 : 0);
    case "symlink":
      return named + 1 + varintLength(node.target.length) + node.target.length;
  }
}

function uintLength(value: number): number {
  return value === 0 ? 0 : 1 + varintLength(value);
}

/** Writes `tag`, the length and the message {name, node}; an empty name is left out. */
export function writeNamedNode(writer: WireWriter, tag: number, name: string, node: Node): void {
  writer.byte(tag);
  writer.varint(namedNodeLength(name, node));
  if (name.length > 0) {
    writer.byte(0x0a);
    writer.latin1(name);
  }
  writer.byte(0x12);
  if (node.type === "symlink") {
    writer.latin1(node.target);
    return;
  }
  writer.hex(node.digest);
  if (node.size > 0) {
    writer.byte(0x18);
    writer.varint(node.size);
  }
  if (node.type === "file" && node.executable) {
    writer.byte(0x20);
    writer.byte(1);
  }
}

/** A name that was not yet checked, and its node. */
export interface RawEntry {
  readonly name: string;
  readonly node: Node;
}

/**
 * Takes the message {name, node} of `type`, a field of the message called `within`. Checks the
 * node, not the name.
 */
export function readNamedNode(reader: WireReader, type: Node["type"], within: string): RawEntry {
  const outer = reader.enter(ENTRY_NAMES[type]);
  const hasName = reader.takeTag(1, WIRE_BYTES);
  const name = hasName ? reader.latin1() : "";
  if (hasName && name === "") reader.fail("default value is written out");
  const node = type === "symlink" ? readSymlink(reader, name) : readPointer(reader, name, type);
  if (!reader.done) reader.fail("field is unknown, repeated or out of order");
  reader.leave(outer, within);
  return { name, node };
}

const ENTRY_NAMES = {
  directory: "directory entry",
  file: "file entry",
  symlink: "symlink entry",
} as const;

function readSymlink(reader: WireReader, name: string): SymlinkNode {
  const target = reader.takeTag(2, WIRE_BYTES) ? reader.latin1() : "";
  const fault = symlinkTargetFault(target);
  if (fault !== undefined) throw invalidNode(name, `InvalidSymlinkTarget(${fault})`);
  return { type: "symlink", target: target as SymlinkTarget };
}

function readPointer(
  reader: WireReader,
  name: string,
  type: "directory" | "file",
): DirectoryNode | FileNode {
  const digest = readDigest(reader, name);
  const size = reader.takeTag(3, WIRE_VARINT) ? reader.nonZero() : 0;
  if (type === "directory") return { type, digest, size };
  const executable = reader.takeTag(4, WIRE_VARINT);
  if (executable && reader.varint() !== 1) reader.fail("a bool is 1 or left out");
  return { type, digest, size, executable };
}

function readDigest(reader: WireReader, name: string): Digest {
  const hex = reader.takeTag(2, WIRE_BYTES) ? reader.hex() : "";
  if (hex.length !== 2 * DIGEST_BYTES) {
    throw invalidNode(name, `InvalidDigestLen(${hex.length / 2})`);
  }
  return hex as Digest;
}

function invalidNode(name: string, fault: string): CastoreError {
  return new CastoreError("INVALID", `entry ${JSON.stringify(name)}: InvalidNode: ${fault}`);
}

/** The canonical encoding of an Entry without a name: how a root node is written down. */
export function encodeNode(node: Node): Buffer {
  return encodeEntry({ name: "", node });
}

/** The canonical encoding of an Entry. */
export function encodeEntry({ name, node }: RawEntry): Buffer {
  const length = namedNodeLength(name, node);
  const writer = new WireWriter(1 + varintLength(length) + length);
  writeNamedNode(writer, (NODE_FIELDS[node.type] << 3) | WIRE_BYTES, name, node);
  return writer.buffer;
}

/** Decodes an Entry without a name. Rejects INVALID unless the bytes are canonical. */
export function decodeNode(bytes: Uint8Array): Node {
  const { name, node } = decodeEntry(bytes);
  if (name !== "") {
    throw new CastoreError("INVALID", `entry ${JSON.stringify(name)}: NameInAnonymousNode`);
  }
  return node;
}

/** Decodes an Entry; its name is unchecked and empty where it has none. Rejects INVALID. */
export function decodeEntry(bytes: Uint8Array): RawEntry {
  const reader = new WireReader(bytes, "entry");
  for (const type of ["directory", "file", "symlink"] as const) {
    if (!reader.takeTag(NODE_FIELDS[type], WIRE_BYTES)) continue;
    const entry = readNamedNode(reader, type, "entry");
    if (!reader.done) reader.fail("field is unknown, repeated or out of order");
    return entry;
  }
  if (bytes.byteLength === 0) throw new CastoreError("INVALID", "entry: NoEntrySet");
  return reader.fail("field is unknown");
}

/** The ENTRY of URLs and of the command line: base64url without padding. */
export function formatEntryText(node: Node): string {
  return encodeNode(node).toString("base64url");
}

/** Most characters of an ENTRY, 4,096 bytes, as in snix: longer symlink targets have none. */
export const ENTRY_TEXT_LENGTH_MAX = 5462;

/** Parses an ENTRY. Rejects INVALID. */
export function parseEntryText(text: string): Node {
  const invalid = (why: string, cause?: unknown) =>
    new CastoreError("INVALID", `entry ${JSON.stringify(text.slice(0, 64))}: ${why}`, { cause });
  const isWellFormed = text.length <= ENTRY_TEXT_LENGTH_MAX && /^[A-Za-z0-9_-]*$/.test(text);
  const bytes = Buffer.from(isWellFormed ? text : "", "base64url");
  if (bytes.toString("base64url") !== text) throw invalid("not base64url");
  try {
    return decodeNode(bytes);
  } catch (cause) {
    throw invalid(`holds no node (${messageOf(cause)})`, cause);
  }
}
