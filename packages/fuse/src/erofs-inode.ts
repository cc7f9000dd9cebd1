import type { Node } from "@castore/castore";
import { MODE } from "./protocol.ts";

/** Bytes of a block. */
const BLOCK = 4096;
const COMPACT_BYTES = 32;
const EXTENDED_BYTES = 64;
/** How the bytes of an inode lie. */
const LAYOUT = { PLAIN: 0, INLINE: 2, CHUNKS: 4 } as const;
/** Largest chunks there are, 2^(12 + 31) bytes: one entry for any file. */
const CHUNK_FORMAT = 31;
const HOLE = 0xffff_ffff;
const XATTR_HEADER_BYTES = 12;
/** "trusted." */
const XATTR_TRUSTED = 4;
export const FILE_TYPE = { file: 1, directory: 2, symlink: 7 } as const;
export const DIRENT_BYTES = 12;

export interface ErofsPlace {
  readonly at: number;
  readonly nid: number;
  readonly data?: Uint8Array | undefined;
}

/** An inode of an EROFS image, its extended attributes and what lies directly behind them. */
export class ErofsInode {
  /** Where blocks of its own begin, if it has any. */
  firstBlock = 0;
  readonly #node: Node;
  #layout: number = LAYOUT.PLAIN;
  #data: Uint8Array = new Uint8Array(0);
  #hole: string | undefined;
  #size: number;

  constructor(node: Node) {
    this.#node = node;
    this.#size = node.type === "file" ? node.size : 0;
  }

  /** Bytes of the inode and its attributes. */
  get headBytes(): number {
    return this.#inodeBytes + (this.#hole === undefined ? 0 : metacopyBytes(this.#hole));
  }

  /** Bytes that lie behind that, in the same block. */
  get tailBytes(): number {
    if (this.#layout === LAYOUT.CHUNKS) return 4;
    return this.#layout === LAYOUT.INLINE ? this.#size : 0;
  }

  /** Blocks of its own. */
  get dataBlocks(): number {
    return this.#layout === LAYOUT.PLAIN ? Math.ceil(this.#size / BLOCK) : 0;
  }

  /** How long its contents will be: they lie behind it where they fit into its block. */
  setLength(length: number): void {
    this.#size = length;
    const fits = length > 0 && this.headBytes + length <= BLOCK;
    this.#layout = fits ? LAYOUT.INLINE : LAYOUT.PLAIN;
  }

  setData(data: Uint8Array): void {
    this.#data = data;
    this.setLength(data.length);
  }

  /** An overlay is told: only metadata here, the contents lie at `path` below. */
  setHole(path: string): void {
    this.#hole = path;
    this.#layout = LAYOUT.CHUNKS;
  }

  /** Writes it into a new image, with the contents that were set or are given. */
  write(image: Buffer, { at, nid, data = this.#data }: ErofsPlace): void {
    const isExtended = this.#inodeBytes === EXTENDED_BYTES;
    image.writeUInt16LE((isExtended ? 1 : 0) | (this.#layout << 1), at);
    const attributesAt = at + this.#inodeBytes;
    const tail = at + this.headBytes;
    const length = tail - attributesAt;
    image.writeUInt16LE(length === 0 ? 0 : (length - XATTR_HEADER_BYTES) / 4 + 1, at + 2);
    image.writeUInt16LE(modeOf(this.#node), at + 4);
    const place = this.#layout === LAYOUT.CHUNKS ? CHUNK_FORMAT : this.firstBlock;
    const links = this.#node.type === "directory" ? 2 : 1;
    image.writeUInt32LE(place, at + 16);
    image.writeUInt32LE(nid, at + 20);
    if (isExtended) {
      image.writeBigUInt64LE(BigInt(this.#size), at + 8);
      image.writeUInt32LE(1, at + 32); // mtime
      image.writeUInt32LE(links, at + 44);
    } else {
      image.writeUInt16LE(links, at + 6);
      image.writeUInt32LE(this.#size, at + 8);
    }
    if (this.#hole !== undefined) writeMetacopy(image, attributesAt, this.#hole);
    if (this.#layout === LAYOUT.CHUNKS) image.writeUInt32LE(HOLE, tail);
    else image.set(data, this.#layout === LAYOUT.INLINE ? tail : this.firstBlock * BLOCK);
  }

  get #inodeBytes(): number {
    return this.#size < 2 ** 32 ? COMPACT_BYTES : EXTENDED_BYTES;
  }
}

function modeOf(node: Node): number {
  if (node.type === "directory") return MODE.DIRECTORY | 0o555;
  if (node.type === "symlink") return MODE.SYMLINK | 0o444;
  return MODE.FILE | (node.executable ? 0o555 : 0o444);
}

const METACOPY = "overlay.metacopy";
const REDIRECT = "overlay.redirect";

/** Where setHole's path lies in an inode of less than 4 GiB. */
export const REDIRECT_AT =
  COMPACT_BYTES + XATTR_HEADER_BYTES + attributeBytes(METACOPY, "") + 4 + REDIRECT.length;

function metacopyBytes(path: string): number {
  return XATTR_HEADER_BYTES + attributeBytes(METACOPY, "") + attributeBytes(REDIRECT, path);
}

function writeMetacopy(image: Buffer, at: number, path: string): void {
  const first = at + XATTR_HEADER_BYTES;
  writeAttribute(image, first, { name: METACOPY, value: "" });
  writeAttribute(image, first + attributeBytes(METACOPY, ""), { name: REDIRECT, value: path });
}

function attributeBytes(name: string, value: string): number {
  return Math.ceil((4 + name.length + value.length) / 4) * 4;
}

function writeAttribute(
  image: Buffer,
  at: number,
  { name, value }: { readonly name: string; readonly value: string },
): void {
  image[at] = name.length;
  image[at + 1] = XATTR_TRUSTED;
  image.writeUInt16LE(value.length, at + 2);
  image.write(name, at + 4, "latin1");
  image.write(value, at + 4 + name.length, "latin1");
}

export interface ErofsEntry {
  /** A character a byte. */
  readonly name: string;
  readonly nid: number;
  readonly type: Node["type"];
}

/** How long directoryBytes of these names is. */
export function directoryLength(names: string[]): number {
  let blocks = 0;
  let used = 0;
  for (const name of names.sort()) {
    const bytes = DIRENT_BYTES + name.length;
    if (used + bytes > BLOCK) {
      blocks++;
      used = 0;
    }
    used += bytes;
  }
  return blocks * BLOCK + used;
}

/** The contents of a directory: blocks, each with entries in order of name, then the names. */
export function directoryBytes(entries: ErofsEntry[]): Buffer {
  entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  const blocks: Buffer[] = [];
  let batch: ErofsEntry[] = [];
  let used = 0;
  for (const entry of entries) {
    const bytes = DIRENT_BYTES + entry.name.length;
    if (used + bytes > BLOCK) {
      blocks.push(directoryBlock(batch, BLOCK));
      batch = [];
      used = 0;
    }
    batch.push(entry);
    used += bytes;
  }
  blocks.push(directoryBlock(batch, used));
  return Buffer.concat(blocks);
}

function directoryBlock(entries: readonly ErofsEntry[], size: number): Buffer {
  const block = Buffer.alloc(size);
  let nameAt = entries.length * DIRENT_BYTES;
  for (const [index, { name, nid, type }] of entries.entries()) {
    const at = index * DIRENT_BYTES;
    block.writeUInt32LE(nid, at);
    block.writeUInt16LE(nameAt, at + 8);
    block[at + 10] = FILE_TYPE[type];
    nameAt += block.write(name, nameAt, "latin1");
  }
  return block;
}
