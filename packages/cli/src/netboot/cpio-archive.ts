import { CastoreError } from "@castore/castore";

/** One thing in an initrd. `path` is relative, without "." and "..". */
export type CpioEntry =
  | { readonly path: string; readonly type: "directory" }
  | { readonly path: string; readonly type: "symlink"; readonly target: string }
  | {
      readonly path: string;
      readonly type: "file";
      readonly bytes: Uint8Array;
      readonly executable: boolean;
    };

const MODE = { directory: 0o040_755, symlink: 0o120_777, file: 0o100_644, program: 0o100_755 };
const TRAILER = "TRAILER!!!";
/** What one header field, eight hexadecimal digits, can say. */
const FIELD_MAX = 0xffff_ffff;

/**
 * An archive in the "newc" format, which Linux unpacks as its initramfs
 * (Documentation/driver-api/early-userspace/buffer-format.rst). Equal entries give equal bytes:
 * they are sorted, belong to root, and have mtime 1. Directories that lead to an entry are added.
 * Rejects INVALID where two entries have one path.
 */
export function* encodeCpio(entries: Iterable<CpioEntry>): Generator<Uint8Array> {
  let inode = 0;
  for (const entry of withDirectories(entries)) {
    const body =
      entry.type === "file"
        ? entry.bytes
        : Buffer.from(entry.type === "symlink" ? entry.target : "");
    yield header(entry.path, modeOf(entry), ++inode, body.byteLength);
    yield body;
    yield padding(body.byteLength);
  }
  yield header(TRAILER, 0, 0, 0);
}

function modeOf(entry: CpioEntry): number {
  return entry.type === "file" && entry.executable ? MODE.program : MODE[entry.type];
}

function withDirectories(entries: Iterable<CpioEntry>): CpioEntry[] {
  const byPath = new Map<string, CpioEntry>();
  for (const entry of entries) {
    const known = byPath.get(entry.path);
    if (known !== undefined && !(known.type === "directory" && entry.type === "directory")) {
      throw new CastoreError("INVALID", `initrd: ${entry.path} comes twice`);
    }
    byPath.set(entry.path, entry);
  }
  for (const { path } of [...byPath.values()]) {
    for (let at = path.lastIndexOf("/"); at > 0; at = path.lastIndexOf("/", at - 1)) {
      const parent = path.slice(0, at);
      const known = byPath.get(parent);
      if (known === undefined) byPath.set(parent, { path: parent, type: "directory" });
      else if (known.type !== "directory") {
        throw new CastoreError("INVALID", `initrd: ${path}: ${parent} is no directory`);
      }
    }
  }
  // A directory sorts before what is in it.
  return [...byPath.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** Header and name, padded to four bytes. All else belongs to root, with one link. */
function header(path: string, mode: number, inode: number, size: number): Uint8Array {
  if (size > FIELD_MAX) throw new CastoreError("INVALID", `initrd: ${path} has 4 GiB or more`);
  const name = Buffer.from(`${path}\0`);
  const links = mode === MODE.directory ? 2 : 1;
  const fields = [inode, mode, 0, 0, links, 1, size, 0, 0, 0, 0, name.length, 0];
  const hex = fields.map((field) => field.toString(16).padStart(8, "0")).join("");
  const head = Buffer.concat([Buffer.from(`070701${hex}`), name]);
  return Buffer.concat([head, padding(head.length)]);
}

function padding(length: number): Uint8Array {
  return new Uint8Array(-length & 3);
}
