import { type ChunkMeta, type Digest, parseDigest } from "@castore/castore";
import { META_AT } from "./erofs-image.ts";
import { DIRENT_BYTES, FILE_TYPE, REDIRECT_AT } from "./erofs-inode.ts";
import { objectName } from "./kernel-image.ts";

/** What is fetched along with a small file that is read. */
const RUN_BYTES = 256 << 10;
/** Larger files belong to no run, and begin none. */
const FILE_BYTES_MAX = 64 << 10;
/** What objectName says, and what ends it. */
const OBJECT = /^\/([0-9a-f]{64})-([0-9]{1,15})[^0-9]/;
const OBJECT_LENGTH_MAX = 84;
const ENTRY_TYPES = new Set<number>(Object.values(FILE_TYPE));

/**
 * Which files stand next to one in its directory, by an image that buildKernelImage made. There is
 * no index, which would take long to make: the image is searched.
 */
export class ImageNeighbours {
  readonly #image: Buffer;
  readonly #named = new Set<Digest>();

  /** Keeps the image, as it is. */
  constructor(image: Uint8Array) {
    this.#image = Buffer.from(image.buffer, image.byteOffset, image.byteLength);
  }

  /** Small files that follow this one, if it is small itself. Each file is named once. */
  after(file: ChunkMeta): readonly ChunkMeta[] {
    if (file.size > FILE_BYTES_MAX || this.#named.has(file.digest)) return [];
    this.#named.add(file.digest);
    // A slash goes before the name.
    const at = this.#image.indexOf(objectName(file)) - 1;
    if (at < 0) return [];
    const files: ChunkMeta[] = [];
    let bytes = 0;
    for (const nid of this.#siblingsAfter((at - REDIRECT_AT - META_AT) / 32)) {
      const object = this.#objectOf(nid);
      if (object === undefined || object.size > FILE_BYTES_MAX) continue;
      if (this.#named.has(object.digest)) continue;
      bytes += object.size;
      if (bytes > RUN_BYTES) break;
      this.#named.add(object.digest);
      files.push(object);
    }
    return files;
  }

  /** The numbers of the inodes that follow a file in its block of its directory. */
  *#siblingsAfter(nid: number): Generator<number, void, undefined> {
    const image = this.#image;
    for (let at = this.#entryOf(nid); at >= 0; ) {
      at += DIRENT_BYTES;
      // Behind the entries lie their names, which do not look like any.
      if (at + DIRENT_BYTES > image.length || image.readUInt32LE(at + 4) !== 0) return;
      if (!ENTRY_TYPES.has(image.readUInt16LE(at + 10))) return;
      yield image.readUInt32LE(at);
    }
  }

  /** Where a directory has the file; below 0 where none does. */
  #entryOf(nid: number): number {
    const number = Buffer.alloc(8);
    number.writeUInt32LE(nid);
    let at = this.#image.indexOf(number);
    // Its inode has its number, too.
    while (at >= 0 && this.#image[at + 10] !== FILE_TYPE.file) {
      at = this.#image.indexOf(number, at + 1);
    }
    return at;
  }

  #objectOf(nid: number): ChunkMeta | undefined {
    const at = META_AT + nid * 32 + REDIRECT_AT;
    const text = this.#image.toString("latin1", at, at + OBJECT_LENGTH_MAX);
    const [, name, size] = OBJECT.exec(text) ?? [];
    return name === undefined ? undefined : { digest: parseDigest(name), size: Number(size) };
  }
}
