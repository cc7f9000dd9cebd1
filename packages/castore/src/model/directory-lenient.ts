import { CastoreError } from "../castore-error.ts";
import { byteStringOf } from "./byte-string.ts";
import { DIGEST_BYTES, digestOfBytes } from "./digest.ts";
import type { Directory } from "./directory.ts";
import { DIRECTORY_BYTES_MAX, directoryOfLists } from "./directory-codec.ts";
import type { Node } from "./node.ts";
import { NODE_FIELDS, type RawEntry } from "./node-codec.ts";
import { type SymlinkTarget, symlinkTargetFault } from "./symlink-target.ts";
import { WireFields } from "./wire-fields.ts";

/**
 * Decodes a directory as snix does from a stream: fields in any order, unknown ones dropped. Its
 * digest is that of its canonical encoding, not of `bytes`. Rejects INVALID for what no canonical
 * encoding can say, EXHAUSTED over `bytesMax`.
 */
export function decodeDirectoryLenient(
  bytes: Uint8Array,
  bytesMax = DIRECTORY_BYTES_MAX,
): Directory {
  if (bytes.byteLength > bytesMax) {
    const message = `directory of ${bytes.byteLength} bytes: the limit is ${bytesMax}`;
    throw new CastoreError("EXHAUSTED", message);
  }
  const directories: RawEntry[] = [];
  const files: RawEntry[] = [];
  const symlinks: RawEntry[] = [];
  const fields = new WireFields(bytes, "directory");
  for (let field = fields.next(); field !== 0; field = fields.next()) {
    if (field === NODE_FIELDS.directory) directories.push(readEntry(fields.bytes(), "directory"));
    else if (field === NODE_FIELDS.file) files.push(readEntry(fields.bytes(), "file"));
    else if (field === NODE_FIELDS.symlink) symlinks.push(readEntry(fields.bytes(), "symlink"));
    else fields.skip();
  }
  return directoryOfLists([directories, files, symlinks]);
}

/** Decodes an Entry as snix does; its name is unchecked and empty where it has none. */
export function decodeEntryLenient(bytes: Uint8Array): RawEntry {
  const fields = new WireFields(bytes, "entry");
  let entry: RawEntry | undefined;
  for (let field = fields.next(); field !== 0; field = fields.next()) {
    if (field === NODE_FIELDS.directory) entry = readEntry(fields.bytes(), "directory");
    else if (field === NODE_FIELDS.file) entry = readEntry(fields.bytes(), "file");
    else if (field === NODE_FIELDS.symlink) entry = readEntry(fields.bytes(), "symlink");
    else fields.skip();
  }
  if (entry === undefined) throw new CastoreError("INVALID", "entry: NoEntrySet");
  return entry;
}

function readEntry(bytes: Uint8Array, type: Node["type"]): RawEntry {
  const fields = new WireFields(bytes, `${type} entry`);
  let name = "";
  let pointer: Uint8Array = new Uint8Array(0);
  let size = 0;
  let executable = false;
  for (let field = fields.next(); field !== 0; field = fields.next()) {
    if (field === 1) name = byteStringOf(fields.bytes());
    else if (field === 2) pointer = fields.bytes();
    else if (field === 3 && type !== "symlink") size = fields.uint();
    else if (field === 4 && type === "file") executable = fields.bool();
    else fields.skip();
  }
  if (type === "symlink") {
    const target = byteStringOf(pointer);
    const fault = symlinkTargetFault(target);
    if (fault !== undefined) throw invalidNode(name, `InvalidSymlinkTarget(${fault})`);
    return { name, node: { type, target: target as SymlinkTarget } };
  }
  if (pointer.byteLength !== DIGEST_BYTES) {
    throw invalidNode(name, `InvalidDigestLen(${pointer.byteLength})`);
  }
  const digest = digestOfBytes(pointer);
  if (type === "directory") return { name, node: { type, digest, size } };
  return { name, node: { type, digest, size, executable } };
}

function invalidNode(name: string, fault: string): CastoreError {
  return new CastoreError("INVALID", `entry ${JSON.stringify(name)}: InvalidNode: ${fault}`);
}
