import {
  CastoreError,
  type Digest,
  type Directory,
  type FileNode,
  type Node,
  type PathComponent,
} from "@castore/castore";
import { directoryBytes, directoryLength, type ErofsEntry, ErofsInode } from "./erofs-inode.ts";

/** Bytes of a block. */
const BLOCK = 4096;
/** Where the metadata begins; before it lies the superblock. */
const META_BLOCK = 1;
export const META_AT = META_BLOCK * BLOCK;
const SUPERBLOCK_AT = 1024;
const MAGIC = 0xe0f5e1e2;
const COMPAT_MTIME = 2;
const INCOMPAT_CHUNKED_FILE = 4;
/** The root's number must fit 16 bits, so it comes first; 0 is no number. */
const ROOT_NID = 1;
/** Most bytes of metadata: beyond that, offsets in a buffer end. */
const META_BYTES_MAX = 2 ** 31;

export interface ErofsSources {
  /** The directory; it must be there. */
  readonly directory: (digest: Digest) => Promise<Directory>;
  /** The contents of a file that is to lie in the image; undefined where it is to lie outside. */
  readonly inline: (file: FileNode) => Promise<Uint8Array | undefined>;
  /** Where the contents of other files lie below the data layer: an absolute path. */
  readonly objectPath: (file: FileNode) => string;
}

interface Planned {
  readonly node: Node;
  readonly inode: ErofsInode;
  readonly parent: Planned | undefined;
  readonly children: (readonly [PathComponent, Planned])[];
  nid: number;
}

/**
 * An EROFS image of a directory with these entries, as the metadata layer of an overlay: all names,
 * modes, sizes, links, and small files. Larger files are holes that tell an overlay with
 * `metacopy=on,redirect_dir=on` where their contents lie in its data layer. Every position has an
 * inode of its own. Rejects INCOMPLETE and what the sources reject; EXHAUSTED above 2 GiB.
 */
export async function buildErofsImage(
  roots: Iterable<readonly [PathComponent, Node]>,
  sources: ErofsSources,
): Promise<Buffer> {
  const planned = await plan(roots, sources);
  const metaBytes = place(planned);
  if (metaBytes > META_BYTES_MAX) {
    throw new CastoreError("EXHAUSTED", `erofs image: ${metaBytes} bytes of metadata`);
  }
  const metaBlocks = Math.ceil(metaBytes / BLOCK);
  let blocks = META_BLOCK + metaBlocks;
  for (const { inode } of planned) {
    inode.firstBlock = blocks;
    blocks += inode.dataBlocks;
  }
  const image = Buffer.alloc(blocks * BLOCK);
  writeSuperblock(image, { inodes: planned.length, blocks });
  for (const one of planned) {
    const { node, inode, nid } = one;
    // Made one at a time: all of them at once would be as large as the image once more.
    const data = node.type === "directory" ? entriesOf(one) : undefined;
    inode.write(image, { at: META_AT + nid * 32, nid, data });
  }
  return image;
}

/** All positions, parents before children. */
async function plan(
  roots: Iterable<readonly [PathComponent, Node]>,
  sources: ErofsSources,
): Promise<Planned[]> {
  const top: Node = { type: "directory", digest: NO_DIGEST, size: 0 };
  const root = await planOne(top, undefined, sources);
  const planned = [root];
  for (let index = 0; index < planned.length; index++) {
    const one = planned[index];
    if (one?.node.type !== "directory") continue;
    const entries: Iterable<readonly [PathComponent, Node]> =
      one === root ? roots : await entriesBelow(one.node.digest, sources);
    for (const [name, node] of entries) {
      const child = await planOne(node, one, sources);
      one.children.push([name, child]);
      planned.push(child);
    }
    // The length is known with the names; the numbers come once all have their place.
    one.inode.setLength(directoryLength([".", "..", ...one.children.map(([name]) => name)]));
  }
  return planned;
}

const NO_DIGEST = "" as Digest;

async function entriesBelow(
  digest: Digest,
  { directory }: ErofsSources,
): Promise<(readonly [PathComponent, Node])[]> {
  const { entries } = await directory(digest);
  return entries.map(({ name, node }) => [name, node] as const);
}

async function planOne(
  node: Node,
  parent: Planned | undefined,
  { inline, objectPath }: ErofsSources,
): Promise<Planned> {
  const inode = new ErofsInode(node);
  if (node.type === "symlink") inode.setData(Buffer.from(node.target, "latin1"));
  if (node.type === "file" && node.size > 0) {
    const bytes = await inline(node);
    if (bytes === undefined) inode.setHole(objectPath(node));
    else if (bytes.byteLength === node.size) inode.setData(bytes);
    else throw new CastoreError("CORRUPT", `blob ${node.digest}: not ${node.size} bytes`);
  }
  return { node, inode, parent, children: [], nid: 0 };
}

function entriesOf({ nid, parent, children }: Planned): Buffer {
  const entries: ErofsEntry[] = [
    { name: ".", nid, type: "directory" },
    { name: "..", nid: parent?.nid ?? nid, type: "directory" },
    ...children.map(([name, { nid: child, node }]) => ({ name, nid: child, type: node.type })),
  ];
  return directoryBytes(entries);
}

/** Gives each inode its number, which is its place; the bytes of metadata in all. */
function place(planned: readonly Planned[]): number {
  let end = ROOT_NID * 32;
  for (const one of planned) {
    const { headBytes, tailBytes } = one.inode;
    let start = Math.ceil(end / 32) * 32;
    // What lies behind an inode must not cross a block.
    if (tailBytes > 0 && ((start + headBytes) % BLOCK) + tailBytes > BLOCK) {
      start = Math.ceil(start / BLOCK) * BLOCK;
    }
    one.nid = start / 32;
    end = start + headBytes + tailBytes;
  }
  return end;
}

function writeSuperblock(
  image: Buffer,
  { inodes, blocks }: { readonly inodes: number; readonly blocks: number },
): void {
  const at = SUPERBLOCK_AT;
  image.writeUInt32LE(MAGIC, at);
  image.writeUInt32LE(COMPAT_MTIME, at + 8);
  image[at + 12] = Math.log2(BLOCK);
  image.writeUInt16LE(ROOT_NID, at + 14);
  image.writeUInt32LE(inodes, at + 16);
  image.writeUInt32LE(1, at + 24); // the time of all inodes that name none
  image.writeUInt32LE(blocks, at + 36);
  image.writeUInt32LE(META_BLOCK, at + 40);
  image.write("castore", at + 64, "latin1");
  image.writeUInt32LE(INCOMPAT_CHUNKED_FILE, at + 80);
}
