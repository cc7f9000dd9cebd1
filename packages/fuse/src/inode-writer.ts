import {
  byteStringOf,
  CastoreError,
  type EntryPlace,
  EntryReader,
  type Node,
  nodesEqual,
  type PathComponent,
  parseDigest,
  parsePathComponent,
  parseSymlinkTarget,
  type RootNode,
} from "@castore/castore";
import {
  createInodeMemory,
  hashName,
  INODE_LAYOUT,
  INODES_MAX,
  type InodeMemory,
  InodeTable,
  ROOT_NAMES_MAX,
  TYPE,
} from "./inode-table.ts";
import { ROOT_ID } from "./protocol.ts";

const L = INODE_LAYOUT;

/** Told what an inode table is about to become, before anyone else can see it. */
export interface InodeChanges {
  root(name: PathComponent, root: RootNode): void;
  gone(name: PathComponent): void;
  held(id: number): void;
  /** `encoded` is undefined where another position has the same directory. */
  entries(id: number, encoded: Uint8Array | undefined): void;
}

/**
 * Writes an inode table; only one thread may have one. A record is complete before anything leads
 * to it, so readers need no lock.
 */
export class InodeWriter extends InodeTable {
  changes: InodeChanges | undefined;
  #next = ROOT_ID + 1;
  #namesEnd = 0;
  /** A populated directory for each digest: another position shares its names. */
  readonly #populated = new Map<string, number>();

  constructor(memory: InodeMemory = createInodeMemory()) {
    super(memory);
    this.words[ROOT_ID * L.WORDS + L.STATE] = TYPE.DIRECTORY | L.FINAL;
  }

  /** The next id that will be given out. */
  get nextId(): number {
    return this.#next;
  }

  /** The node at an inode other than the root. */
  nodeOf(id: number): Node {
    const type = this.typeOf(id);
    const size = this.sizeOf(id);
    if (type === TYPE.SYMLINK) {
      const start = this.targetStartOf(id);
      const target = this.names.slice(start, start + this.targetLengthOf(id));
      return { type: "symlink", target: parseSymlinkTarget(byteStringOf(target)) };
    }
    const digest = parseDigest(this.digestOf(id));
    if (type === TYPE.DIRECTORY) return { type: "directory", digest, size };
    return { type: "file", digest, size, executable: type === TYPE.EXECUTABLE };
  }

  componentOf(id: number): PathComponent {
    return parsePathComponent(Buffer.from(this.nameOf(id), "latin1"));
  }

  /** The id of `name` in the root, 0 where it is not there or gone. */
  findRoot(name: PathComponent): number {
    const buffer = Buffer.from(name, "latin1");
    const id = this.rootChild({ buffer, nameStart: 0, nameLength: buffer.length });
    return id !== 0 && this.isGone(id) ? 0 : id;
  }

  /**
   * Makes `name` in the root stand for `root`. A name that is there with the same node, or was, has
   * its id again; with another node it gets a new one.
   */
  setRoot(name: PathComponent, root: RootNode): number {
    const buffer = Buffer.from(name, "latin1");
    const place = { buffer, nameStart: 0, nameLength: buffer.length };
    const known = this.rootChild(place);
    const same = known !== 0 && nodesEqual(this.nodeOf(known), root.node);
    if (!same) {
      this.changes?.root(name, root);
      const count = this.rootCount;
      if (count >= ROOT_NAMES_MAX) throw limitReached("names in the root", ROOT_NAMES_MAX);
      const id = this.#allocate(1);
      this.#writeName(id, this.#storeBytes(buffer), buffer.length);
      this.#writeNode(id, ROOT_ID, root.node, rootBits(root));
      this.rootOrder[count + 1] = id;
      Atomics.store(this.rootOrder, 0, count + 1);
      if (known !== 0) this.#setBit(known, L.GONE, true);
      Atomics.store(this.rootSlots, this.#rootSlot(buffer), id);
      return id;
    }
    if (this.isGone(known) || !this.#hasBits(known, root)) {
      this.changes?.root(name, root);
      this.#setBit(known, L.FINAL, root.final);
      this.#setBit(known, L.LAZY, root.lazy);
      this.#setBit(known, L.GONE, false);
    }
    return known;
  }

  /** Says that `name` is no longer in the root. Its inode stays for those who have it open. */
  removeRoot(name: PathComponent): void {
    const id = this.findRoot(name);
    if (id === 0) return;
    this.changes?.gone(name);
    this.#setBit(id, L.GONE, true);
  }

  /** Says that a name in the root is kept from being collected. */
  markHeld(id: number): void {
    if (this.isHeld(id)) return;
    this.changes?.held(id);
    this.#setBit(id, L.HELD, true);
  }

  /** Says whether `isAwaited` is to be true of the file. */
  awaitRead(id: number, awaited: boolean): void {
    this.#setBit(id, L.AWAITED, awaited);
  }

  /** Whether the entries of directory `digest` are known at some position. */
  knows(digest: string): boolean {
    return this.#populated.has(digest);
  }

  /**
   * Gives the inode `id` its children: those of the directory with this encoding, which must have
   * been checked, or, where that is undefined, of the position that `knows` found. Does nothing
   * where it has them.
   */
  populate(id: number, encoded: Uint8Array | undefined): void {
    if (this.isPopulated(id)) return;
    const digest = this.digestOf(id);
    const twin = this.#populated.get(digest);
    const bits = L.FINAL | (this.isLazy(id) ? L.LAZY : 0);
    let first = 0;
    let count = 0;
    if (twin !== undefined) {
      this.changes?.entries(id, undefined);
      count = this.childCountOf(twin);
      first = this.#allocate(count);
      this.#copyChildren(this.firstChildOf(twin), { first, count, parent: id, bits });
    } else if (encoded !== undefined) {
      this.changes?.entries(id, encoded);
      const reader = new EntryReader(encoded);
      count = reader.count;
      first = this.#allocate(count);
      for (let i = 0; i < count; i++) {
        const entry = reader.next();
        if (entry === undefined) break;
        this.#writeEntry(first + i, id, { encoded, entry, bits });
      }
      this.#populated.set(digest, id);
    } else {
      throw new CastoreError("INCOMPLETE", `directory ${digest}: absent`);
    }
    this.words[id * L.WORDS + L.FIRST] = first;
    this.words[id * L.WORDS + L.FIRST + 1] = count;
    this.#setBit(id, L.POPULATED, true);
  }

  #hasBits(id: number, root: RootNode): boolean {
    return this.isFinal(id) === root.final && this.isLazy(id) === root.lazy;
  }

  #copyChildren(
    source: number,
    { first, count, parent, bits }: { first: number; count: number; parent: number; bits: number },
  ): void {
    const from = source * L.WORDS;
    const to = first * L.WORDS;
    this.words.copyWithin(to, from, from + count * L.WORDS);
    for (let i = 0; i < count; i++) {
      const at = to + i * L.WORDS;
      const type = (this.words[at + L.STATE] ?? 0) & 7;
      this.words[at + L.PARENT] = parent;
      this.words[at + L.STATE] = type | bits;
      if (type === TYPE.DIRECTORY) this.words.fill(0, at + L.FIRST, at + L.FIRST + 2);
    }
  }

  #writeEntry(id: number, parent: number, { encoded, entry, bits }: EncodedEntry): void {
    const at = id * L.WORDS;
    const { nameStart, nameEnd, valueStart, valueEnd, type } = entry;
    this.words[at + L.PARENT] = parent;
    this.words[at + L.NAME] = this.#storePart(encoded, nameStart, nameEnd);
    this.words[at + L.NAME + 1] = nameEnd - nameStart;
    if (type === "symlink") {
      this.words[at + L.FIRST] = this.#storePart(encoded, valueStart, valueEnd);
      this.words[at + L.FIRST + 1] = valueEnd - valueStart;
      this.sizes[at / 2 + L.SIZE] = valueEnd - valueStart;
    } else {
      this.sizes[at / 2 + L.SIZE] = entry.size;
      const digest = (at + L.DIGEST) * 4;
      for (let i = 0; i < 32; i++) this.digests[digest + i] = encoded[valueStart + i] ?? 0;
    }
    Atomics.store(this.words, at + L.STATE, typeOfNode(entry) | bits);
  }

  #writeNode(id: number, parent: number, node: Node, bits: number): void {
    const at = id * L.WORDS;
    this.words[at + L.PARENT] = parent;
    if (node.type === "symlink") {
      this.words[at + L.FIRST] = this.#storeText(node.target);
      this.words[at + L.FIRST + 1] = node.target.length;
      this.sizes[at / 2 + L.SIZE] = node.target.length;
    } else {
      this.sizes[at / 2 + L.SIZE] = node.size;
      this.digests.write(node.digest, (at + L.DIGEST) * 4, "hex");
    }
    Atomics.store(this.words, at + L.STATE, typeOfNode(node) | bits);
  }

  #writeName(id: number, start: number, length: number): void {
    this.words[id * L.WORDS + L.NAME] = start;
    this.words[id * L.WORDS + L.NAME + 1] = length;
  }

  #setBit(id: number, bit: number, on: boolean): void {
    const index = id * L.WORDS + L.STATE;
    if (on) Atomics.or(this.words, index, bit);
    else Atomics.and(this.words, index, ~bit);
  }

  #rootSlot(name: Buffer): number {
    let slot = hashName(name, 0, name.length);
    for (;;) {
      const id = Atomics.load(this.rootSlots, slot);
      if (id === 0 || this.nameOf(id) === name.toString("latin1")) return slot;
      slot = (slot + 1) % L.ROOT_SLOTS;
    }
  }

  #allocate(count: number): number {
    const first = this.#next;
    const bytes = (first + count) * L.WORDS * 4;
    if (first + count > INODES_MAX) throw limitReached("inodes", INODES_MAX);
    if (bytes > this.words.byteLength) {
      grow(this.memory.inodes, bytes);
      this.renewViews();
    }
    this.#next = first + count;
    this.words[0] = this.#next - ROOT_ID;
    return first;
  }

  #storeText(text: string): number {
    const start = this.#reserveNames(text.length);
    for (let i = 0; i < text.length; i++) this.names[start + i] = text.charCodeAt(i);
    return start;
  }

  #storeBytes(bytes: Uint8Array): number {
    return this.#storePart(bytes, 0, bytes.length);
  }

  #storePart(bytes: Uint8Array, from: number, end: number): number {
    const start = this.#reserveNames(end - from);
    // A plain loop: a view of it costs more than most names.
    for (let i = from; i < end; i++) this.names[start + i - from] = bytes[i] ?? 0;
    return start;
  }

  #reserveNames(length: number): number {
    const start = this.#namesEnd;
    const { names } = this.memory;
    if (start + length > names.maxByteLength) {
      throw limitReached("bytes of names", names.maxByteLength);
    }
    if (start + length > this.names.length) {
      grow(names, start + length);
      this.renewViews();
    }
    this.#namesEnd = start + length;
    return start;
  }
}

/** Grows by an eighth at least, so that views are renewed rarely. */
function grow(memory: SharedArrayBuffer, bytes: number): void {
  if (bytes <= memory.byteLength) return;
  const wanted = Math.max(bytes, memory.byteLength + (memory.byteLength >>> 3));
  const rounded = (Math.ceil(wanted / 65_536) + 1) * 65_536;
  memory.grow(Math.min(rounded, memory.maxByteLength));
}

interface EncodedEntry {
  readonly encoded: Uint8Array;
  readonly entry: EntryPlace;
  readonly bits: number;
}

function typeOfNode(node: Node | EntryPlace): number {
  if (node.type === "directory") return TYPE.DIRECTORY;
  if (node.type === "symlink") return TYPE.SYMLINK;
  return node.executable ? TYPE.EXECUTABLE : TYPE.FILE;
}

function rootBits(root: RootNode): number {
  return (root.final ? L.FINAL : 0) | (root.lazy ? L.LAZY : 0);
}

function limitReached(what: string, limit: number): CastoreError {
  return new CastoreError("EXHAUSTED", `mount: more than ${limit} ${what}`);
}
