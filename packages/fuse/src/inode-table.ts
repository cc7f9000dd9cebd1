import { MODE, ROOT_ID } from "./protocol.ts";

/**
 * One inode is 16 words:
 * 0 parent · 1 state and type · 2, 3 name (start, length) · 4, 5 directory: first child and count;
 * symlink: target (start, length) · 6, 7 size (float64) · 8..15 digest.
 * The children of a directory have consecutive ids in order of name, so that a lookup is a binary
 * search and a listing a walk, and a million inodes take 64 MB and their names.
 */
const WORDS = 16;
const PARENT = 0;
const STATE = 1;
const NAME = 2;
const FIRST = 4;
const SIZE = 3; // in float64s
const DIGEST = 8;

/** Types, in the low bits of STATE. */
export const TYPE = { FILE: 1, EXECUTABLE: 2, SYMLINK: 3, DIRECTORY: 4 } as const;
const TYPE_MASK = 7;
/** Bits of STATE. */
const POPULATED = 8;
const GONE = 16;
const FINAL = 32;
const LAZY = 64;
const HELD = 128;
const AWAITED = 256;

/** Most inodes of a mount; beyond that, directories that were not opened yet stay closed. */
export const INODES_MAX = 1 << 25;
/** Most bytes of names and symlink targets. */
const NAMES_BYTES_MAX = 2 ** 31 - 65_536;
/** Most names in the root. */
export const ROOT_NAMES_MAX = 1 << 19;
const ROOT_SLOTS = ROOT_NAMES_MAX * 2;

/** The memory of an inode table: what a thread needs to attach to it. */
export interface InodeMemory {
  readonly inodes: SharedArrayBuffer;
  readonly names: SharedArrayBuffer;
  /** Hash table of the root's names → id. */
  readonly rootSlots: SharedArrayBuffer;
  /** Number of the root's names, then their ids in the order in which they came. */
  readonly rootOrder: SharedArrayBuffer;
}

export function createInodeMemory(): InodeMemory {
  return {
    inodes: new SharedArrayBuffer(1 << 16, { maxByteLength: INODES_MAX * WORDS * 4 }),
    names: new SharedArrayBuffer(1 << 16, { maxByteLength: NAMES_BYTES_MAX }),
    rootSlots: new SharedArrayBuffer(ROOT_SLOTS * 4),
    rootOrder: new SharedArrayBuffer((ROOT_NAMES_MAX + 1) * 4),
  };
}

/** What a file's content and a directory's entries are found by. */
export interface InodeContent {
  readonly digest: string;
  readonly size: number;
}

/**
 * Reads an inode table, from any thread. Ids are counted up and never used twice, per position in
 * the tree: an inode stays as long as the mount, so FORGET has nothing to do.
 *
 * The views have a fixed length and are renewed when the memory has grown: views that track the
 * length of a growable buffer cost 9 times as much per access (Node 20).
 */
export class InodeTable {
  readonly memory: InodeMemory;
  protected words: Uint32Array;
  protected sizes: Float64Array;
  protected digests: Buffer;
  /** Bytes of names and symlink targets; may be replaced by any call. */
  names: Uint8Array;
  protected readonly rootSlots: Uint32Array;
  protected readonly rootOrder: Uint32Array;

  constructor(memory: InodeMemory) {
    this.memory = memory;
    this.rootSlots = new Uint32Array(memory.rootSlots);
    this.rootOrder = new Uint32Array(memory.rootOrder);
    this.names = new Uint8Array(memory.names, 0, memory.names.byteLength);
    this.words = new Uint32Array();
    this.sizes = new Float64Array();
    this.digests = Buffer.alloc(0);
    this.renewViews();
  }

  /** Whether `id` is an inode. */
  has(id: number): boolean {
    return this.typeOf(id) !== 0;
  }

  /** One of TYPE; 0 where there is no such inode. */
  typeOf(id: number): number {
    return this.#state(id) & TYPE_MASK;
  }

  modeOf(id: number): number {
    switch (this.typeOf(id)) {
      case TYPE.DIRECTORY:
        return MODE.DIRECTORY | 0o555;
      case TYPE.SYMLINK:
        return MODE.SYMLINK | 0o444;
      case TYPE.EXECUTABLE:
        return MODE.FILE | 0o555;
      default:
        return MODE.FILE | 0o444;
    }
  }

  isPopulated(id: number): boolean {
    return (this.#state(id) & POPULATED) !== 0;
  }

  isGone(id: number): boolean {
    return (this.#state(id) & GONE) !== 0;
  }

  isFinal(id: number): boolean {
    return (this.#state(id) & FINAL) !== 0;
  }

  isLazy(id: number): boolean {
    return (this.#state(id) & LAZY) !== 0;
  }

  /** Whether a name in the root is kept from being collected; before that nothing below is used. */
  isHeld(id: number): boolean {
    return (this.#state(id) & HELD) !== 0;
  }

  /** Whether the thread that loads contents wants to know when the file is read. */
  isAwaited(id: number): boolean {
    return (this.#state(id) & AWAITED) !== 0;
  }

  parentOf(id: number): number {
    return this.word(id, PARENT);
  }

  /** The name in the root that leads to `id`. */
  rootOf(id: number): number {
    let at = id;
    for (let above = this.parentOf(at); above > ROOT_ID; above = this.parentOf(at)) at = above;
    return at;
  }

  sizeOf(id: number): number {
    this.#reach(id);
    return this.sizes[id * (WORDS / 2) + SIZE] ?? 0;
  }

  nameStartOf(id: number): number {
    return this.#reachName(this.word(id, NAME), this.word(id, NAME + 1));
  }

  nameLengthOf(id: number): number {
    return this.word(id, NAME + 1);
  }

  /** The name, a character a byte. */
  nameOf(id: number): string {
    const start = this.nameStartOf(id);
    return Buffer.from(this.memory.names, start, this.nameLengthOf(id)).toString("latin1");
  }

  targetStartOf(id: number): number {
    return this.#reachName(this.word(id, FIRST), this.word(id, FIRST + 1));
  }

  targetLengthOf(id: number): number {
    return this.word(id, FIRST + 1);
  }

  digestOf(id: number): string {
    this.#reach(id);
    const at = (id * WORDS + DIGEST) * 4;
    return this.digests.toString("hex", at, at + 32);
  }

  /** Copies the 32 bytes of the digest. */
  copyDigest(id: number, target: Buffer): void {
    this.#reach(id);
    const at = (id * WORDS + DIGEST) * 4;
    this.digests.copy(target, 0, at, at + 32);
  }

  /** The first child's id; meaningful once the directory is populated. */
  firstChildOf(id: number): number {
    return this.word(id, FIRST);
  }

  childCountOf(id: number): number {
    return this.word(id, FIRST + 1);
  }

  /** The id of a populated directory's child by name; 0 where there is none. */
  child(directory: number, place: NamePlace): number {
    let low = this.firstChildOf(directory);
    let high = low + this.childCountOf(directory);
    while (low < high) {
      const middle = (low + high) >>> 1;
      const order = this.#compareName(middle, place.buffer, place);
      if (order === 0) return middle;
      if (order < 0) low = middle + 1;
      else high = middle;
    }
    return 0;
  }

  /** The id under which `name` was last added to the root, which may be gone; 0 where never. */
  rootChild({ buffer, nameStart, nameLength }: NamePlace): number {
    let slot = hashName(buffer, nameStart, nameLength);
    for (;;) {
      const id = Atomics.load(this.rootSlots, slot);
      if (id === 0) return 0;
      if (this.#compareName(id, buffer, { nameStart, nameLength }) === 0) return id;
      slot = (slot + 1) % ROOT_SLOTS;
    }
  }

  /** How many names the root has or had. */
  get rootCount(): number {
    return Atomics.load(this.rootOrder, 0);
  }

  /** The id of the root's name that came at `index`. */
  rootChildAt(index: number): number {
    return this.rootOrder[index + 1] ?? 0;
  }

  /** How many inodes there are. */
  get count(): number {
    return this.word(0, 0);
  }

  protected word(id: number, index: number): number {
    this.#reach(id);
    return this.words[id * WORDS + index] ?? 0;
  }

  protected renewViews(): void {
    const { inodes, names } = this.memory;
    const length = inodes.byteLength & ~(WORDS * 4 - 1);
    this.words = new Uint32Array(inodes, 0, length / 4);
    this.sizes = new Float64Array(inodes, 0, length / 8);
    this.digests = Buffer.from(inodes, 0, length);
    this.names = new Uint8Array(names, 0, names.byteLength);
  }

  #state(id: number): number {
    this.#reach(id);
    const index = id * WORDS + STATE;
    return index < this.words.length ? Atomics.load(this.words, index) : 0;
  }

  #reach(id: number): void {
    if ((id + 1) * WORDS > this.words.length) this.renewViews();
  }

  #reachName(start: number, length: number): number {
    if (start + length > this.names.length) this.renewViews();
    return start;
  }

  /** < 0 where the inode's name comes before the other. */
  #compareName(id: number, other: Uint8Array, place: Omit<NamePlace, "buffer">): number {
    const length = this.nameLengthOf(id);
    const start = this.nameStartOf(id);
    const { nameStart, nameLength } = place;
    const names = this.names;
    const common = Math.min(length, nameLength);
    for (let i = 0; i < common; i++) {
      const order = (names[start + i] ?? 0) - (other[nameStart + i] ?? 0);
      if (order !== 0) return order;
    }
    return length - nameLength;
  }
}

/** A name in a buffer, as in a LOOKUP. */
export interface NamePlace {
  readonly buffer: Uint8Array;
  readonly nameStart: number;
  readonly nameLength: number;
}

/** FNV-1a. */
export function hashName(buffer: Uint8Array, start: number, length: number): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < length; i++) {
    hash = Math.imul(hash ^ (buffer[start + i] ?? 0), 0x01000193);
  }
  return (hash >>> 0) % ROOT_SLOTS;
}

/** Layout and bits, for the one that writes. */
export const INODE_LAYOUT = {
  WORDS,
  PARENT,
  STATE,
  NAME,
  FIRST,
  SIZE,
  DIGEST,
  POPULATED,
  GONE,
  FINAL,
  LAZY,
  HELD,
  AWAITED,
  ROOT_SLOTS,
  ROOT_ID,
} as const;
