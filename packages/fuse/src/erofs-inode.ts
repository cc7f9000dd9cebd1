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
const FILE_TYPE = { file: 1, directory: 2, symlink: 7 } as const;
const DIRENT_BYTES = 12;

/** An inode of an EROFS image, its extended attributes and what lies directly behind them. */
export class ErofsInode {
  /** Where blocks of its own begin, if it has any. */
  firstBlock = 0;
  readonly #node: Node;
  #layout: number = LAYOUT.PLAIN;
  #data: Uint8Array = new Uint8Array(0);
  #attributes: Uint8Array = new Uint8Array(0);
  #size: number;

  constructor(node: Node) {
    this.#node = node;
    this.#size = node.type === "file" ? node.size : 0;
  }

  /** Bytes of the inode and its attributes. */
  get headBytes(): number {
    return this.#inodeBytes + this.#attributes.length;
  }

  /** Bytes that lie behind that, in the same block. */
  get tailBytes(): number {
    if (this.#layout === LAYOUT.CHUNKS) return 4;
    return this.#layout === LAYOUT.INLINE ? this.#data.length : 0;
  }

  /** Blocks of its own. */
  get dataBlocks(): number {
    return this.#layout === LAYOUT.PLAIN ? Math.ceil(this.#data.length / BLOCK) : 0;
  }

  /** The inode's contents: behind it where they fit into its block. */
  setData(data: Uint8Array): void {
    this.#data = data;
    this.#size = data.length;
    const fits = data.length > 0 && this.headBytes + data.length <= BLOCK;
    this.#layout = fits ? LAYOUT.INLINE : LAYOUT.PLAIN;
  }

  /** The contents lie elsewhere, as `attributes` say. */
  setHole(attributes: Uint8Array): void {
    this.#attributes = attributes;
    this.#layout = LAYOUT.CHUNKS;
  }

  write(image: Buffer, at: number, nid: number): void {
    const isExtended = this.#inodeBytes === EXTENDED_BYTES;
    image.writeUInt16LE((isExtended ? 1 : 0) | (this.#layout << 1), at);
    const { length } = this.#attributes;
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
    image.set(this.#attributes, at + this.#inodeBytes);
    const tail = at + this.headBytes;
    if (this.#layout === LAYOUT.CHUNKS) image.writeUInt32LE(HOLE, tail);
    else image.set(this.#data, this.#layout === LAYOUT.INLINE ? tail : this.firstBlock * BLOCK);
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

/** Attributes that tell an overlay: only metadata here, the contents lie at `path` below. */
export function metacopyAttributes(path: string): Buffer {
  const header = Buffer.alloc(XATTR_HEADER_BYTES);
  return Buffer.concat([header, attribute("metacopy", ""), attribute("redirect", path)]);
}

function attribute(name: string, value: string): Buffer {
  const text = `overlay.${name}`;
  const bytes = Buffer.alloc(Math.ceil((4 + text.length + value.length) / 4) * 4);
  bytes[0] = text.length;
  bytes[1] = XATTR_TRUSTED;
  bytes.writeUInt16LE(value.length, 2);
  bytes.write(text + value, 4, "latin1");
  return bytes;
}

export interface ErofsEntry {
  /** A character a byte. */
  readonly name: string;
  readonly nid: number;
  readonly type: Node["type"];
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
