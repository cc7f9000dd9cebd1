import { closeSync, existsSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { storeLayout } from "./store-layout.ts";

/**
 * The structure of LMDB's file, as the lmdb package writes it (its mdb.c: MDB_meta, MDB_db,
 * MDB_page_header, MDB_node, MDB_ovpage), little endian. LMDB trusts its pages: where one is
 * damaged it may end the process, so they are looked at without it.
 */
const PAGE_BYTES = 4096;
const PAGE_HEAD_BYTES = 24;
const NODE_HEAD_BYTES = 8;
const TREE_BYTES = 48;
const OVERFLOW_BYTES = 24;
const MAGIC = 0xbeefc0de;
const VERSION = 2;
const NO_PAGE = 0xffff_ffff_ffff_ffffn;
/** LMDB's own limit on the height of a tree. */
const DEPTH_MAX = 32;
const BRANCH = 1;
const LEAF = 2;
const OVERFLOW = 4;
const META = 8;
const NODE_OVERFLOW = 1;
const NODE_TREE = 2;
/** Walks, if others commit meanwhile: where they never pause, nothing can be said. */
const ATTEMPTS_MAX = 20;

/** A page that cannot be what LMDB wrote. */
export interface PageFault {
  readonly page: number;
  readonly message: string;
}

/** As `findPageFault`, for the index of the store at `path`; undefined where there is none. */
export function findIndexFault(path: string): PageFault | undefined {
  const file = join(storeLayout(path).index, "data.mdb");
  return existsSync(file) ? findPageFault(file) : undefined;
}

/**
 * The first thing that is wrong with the pages that the last commit in `file` needs, without LMDB;
 * undefined where nothing shows. What rows say is not looked at. Others may go on committing.
 */
export function findPageFault(file: string): PageFault | undefined {
  const descriptor = openSync(file, "r");
  try {
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      const walk = new PageWalk(descriptor);
      const fault = walk.run();
      // Pages that a commit needs are overwritten only after the next one.
      const isLatest = new PageWalk(descriptor).latestCommit() === walk.commit;
      if (fault === undefined || isLatest) return fault;
    }
    return undefined;
  } finally {
    closeSync(descriptor);
  }
}

interface Tree {
  readonly name: string;
  readonly depth: number;
  readonly entries: bigint;
  readonly root: bigint;
}

class Fault extends Error {
  readonly page: number;

  constructor(page: number, message: string) {
    super(message);
    this.page = page;
  }
}

class PageWalk {
  /** The number of the commit that was walked. */
  commit = -1n;
  readonly #descriptor: number;
  readonly #met = new Set<number>();
  #lastPage = 0;

  constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  run(): PageFault | undefined {
    try {
      const meta = this.#latestMeta();
      this.commit = meta.readBigUInt64LE(META_COMMIT);
      this.#lastPage = Number(meta.readBigUInt64LE(META_LAST_PAGE));
      this.#met.add(0).add(1);
      const free: Buffer[] = [];
      const main = treeAt("the list of tables", meta, META_TREES + TREE_BYTES);
      this.#walkTree(main, (name, data, isTree) => {
        if (!isTree) return;
        const table = treeAt(name.toString("latin1").replace(/\0$/, ""), data, 0);
        const keyBytes = KEY_BYTES[table.name];
        this.#walkTree(table, (key) => {
          if (keyBytes === undefined || key.length === keyBytes) return;
          throw new Fault(Number(table.root), `${table.name}: a key of ${key.length} bytes`);
        });
      });
      const unused = treeAt("the list of free pages", meta, META_TREES);
      this.#walkTree(unused, (_, data) => free.push(data), "numbers");
      for (const list of free) this.#checkFree(list);
      return undefined;
    } catch (error) {
      if (error instanceof Fault) return { page: error.page, message: error.message };
      throw error;
    }
  }

  latestCommit(): bigint {
    try {
      return this.#latestMeta().readBigUInt64LE(META_COMMIT);
    } catch (error) {
      if (error instanceof Fault) return -1n;
      throw error;
    }
  }

  #latestMeta(): Buffer {
    const [first, second] = [0, 1].map((page) => {
      const meta = this.#read(page, 1);
      const isMeta =
        meta.readUInt16LE(18) === META &&
        meta.readUInt32LE(PAGE_HEAD_BYTES) === MAGIC &&
        meta.readUInt32LE(PAGE_HEAD_BYTES + 4) === VERSION &&
        meta.readUInt32LE(META_TREES) === PAGE_BYTES;
      if (isMeta && meta.readBigUInt64LE(0) === BigInt(page)) return meta;
      throw new Fault(page, "is not the head of an index");
    }) as [Buffer, Buffer];
    const isSecond = second.readBigUInt64LE(META_COMMIT) > first.readBigUInt64LE(META_COMMIT);
    return isSecond ? second : first;
  }

  /** Visits each row of the tree: its key, and its value where that lies in the page. */
  #walkTree(
    tree: Tree,
    visit: (key: Buffer, data: Buffer, isTree: boolean) => void,
    order: "bytes" | "numbers" = "bytes",
  ): void {
    if (tree.root === NO_PAGE) {
      if (tree.depth !== 0 || tree.entries !== 0n) throw new Fault(0, `${tree.name}: has no root`);
      return;
    }
    let entries = 0n;
    let last: Buffer | undefined;
    const inOrder = (a: Buffer, b: Buffer): boolean =>
      order === "bytes" ? a.compare(b) < 0 : a.readBigUInt64LE() < b.readBigUInt64LE();
    const descend = (number: bigint, depth: number, least?: Buffer): void => {
      const page = this.#page(tree, number, depth === tree.depth ? LEAF : BRANCH);
      const at = Number(number);
      const count = page.readUInt16LE(20) / 2;
      if (depth < tree.depth && count < 2) throw new Fault(at, `${tree.name}: a branch of one`);
      for (let index = 0; index < count; index++) {
        const node = nodeAt(at, page, index);
        if (depth < tree.depth) {
          const key = index === 0 ? least : node.key;
          descend(node.child, depth + 1, key);
          continue;
        }
        if (order === "numbers" && node.key.length !== 8) throw new Fault(at, "a wrong key");
        const below = index === 0 ? least : undefined;
        const isLess = below !== undefined && inOrder(node.key, below);
        if (isLess || (last !== undefined && !inOrder(last, node.key))) {
          throw new Fault(at, `${tree.name}: keys are not in order`);
        }
        last = node.key;
        entries++;
        const isTree = (node.flags & NODE_TREE) !== 0;
        if (isTree && node.size !== TREE_BYTES) throw new Fault(at, "a wrong table");
        visit(node.key, this.#dataOf(tree, at, page, node), isTree);
      }
    };
    if (tree.depth < 1 || tree.depth > DEPTH_MAX) throw new Fault(0, `${tree.name}: wrong depth`);
    descend(tree.root, 1);
    if (entries !== tree.entries) {
      throw new Fault(Number(tree.root), `${tree.name}: ${entries} rows, not ${tree.entries}`);
    }
  }

  #page(tree: Tree, number: bigint, flags: number): Buffer {
    const at = this.#take(tree.name, number, 1);
    const page = this.#read(at, 1);
    if (page.readBigUInt64LE(0) !== number || page.readUInt16LE(18) !== flags) {
      throw new Fault(at, `${tree.name}: is another page`);
    }
    const [lower, upper] = [page.readUInt16LE(20), page.readUInt16LE(22)];
    const isWhole = lower % 2 === 0 && lower > 0 && lower <= upper;
    if (isWhole && upper <= PAGE_BYTES - PAGE_HEAD_BYTES) return page;
    throw new Fault(at, `${tree.name}: is of a wrong size`);
  }

  #dataOf(tree: Tree, at: number, page: Buffer, node: TreeNode): Buffer {
    if ((node.flags & NODE_OVERFLOW) === 0) {
      return page.subarray(node.data, node.data + node.size);
    }
    const first = page.readBigUInt64LE(node.data);
    const pages = Math.floor((PAGE_HEAD_BYTES - 1 + node.size) / PAGE_BYTES) + 1;
    if (page.readBigUInt64LE(node.data + 16) !== BigInt(pages)) {
      throw new Fault(at, `${tree.name}: a long row of a wrong size`);
    }
    const start = this.#take(tree.name, first, pages);
    const head = this.#read(start, 1);
    const isRight = head.readBigUInt64LE(0) === first && head.readUInt16LE(18) === OVERFLOW;
    if (!isRight || head.readUInt32LE(20) !== pages) {
      throw new Fault(start, `${tree.name}: is no long row`);
    }
    return this.#read(start, pages).subarray(PAGE_HEAD_BYTES, PAGE_HEAD_BYTES + node.size);
  }

  /** Each page belongs to one place. */
  #take(name: string, first: bigint, count: number): number {
    const start = Number(first);
    if (first < 2n || start + count - 1 > this.#lastPage) {
      throw new Fault(start, `${name}: is beyond the end`);
    }
    for (let page = start; page < start + count; page++) {
      if (this.#met.has(page)) throw new Fault(page, `${name}: is used twice`);
      this.#met.add(page);
    }
    return start;
  }

  /** A count, then pages; a negative number says how many follow the next one. */
  #checkFree(list: Buffer): void {
    const count = list.length < 8 ? -1n : list.readBigInt64LE(0);
    if (count < 0n || 8n * (count + 1n) > BigInt(list.length)) {
      throw new Fault(0, "the list of free pages: is of a wrong size");
    }
    let length = 1;
    for (let index = 1; index <= Number(count); index++) {
      const value = Number(list.readBigInt64LE(8 * index));
      if (value < 0) {
        length = -value;
        continue;
      }
      for (let page = value; value > 0 && page < value + length; page++) {
        if (page > this.#lastPage || this.#met.has(page)) {
          throw new Fault(page, "the list of free pages: is not free");
        }
      }
      length = 1;
    }
  }

  #read(page: number, count: number): Buffer {
    const bytes = Buffer.alloc(count * PAGE_BYTES);
    const got = readSync(this.#descriptor, bytes, 0, bytes.length, page * PAGE_BYTES);
    if (got === bytes.length) return bytes;
    throw new Fault(page, "is beyond the end of the file");
  }
}

/** Of tables whose keys are of one length (docs/local-store.md, Rows). */
const KEY_BYTES: Readonly<Record<string, number>> = {
  blobs: 32,
  directories: 32,
  "blob-chunks": 40,
  chunks: 64,
  seeds: 48,
  condemned: 33,
  seen: 32,
  unlinks: 32,
};

const META_TREES = PAGE_HEAD_BYTES + 24;
const META_LAST_PAGE = META_TREES + 2 * TREE_BYTES;
const META_COMMIT = META_LAST_PAGE + 8;

function treeAt(name: string, bytes: Buffer, at: number): Tree {
  return {
    name,
    depth: bytes.readUInt16LE(at + 6),
    entries: bytes.readBigUInt64LE(at + 32),
    root: bytes.readBigUInt64LE(at + 40),
  };
}

interface TreeNode {
  readonly key: Buffer;
  readonly flags: number;
  /** Of a branch. */
  readonly child: bigint;
  /** Of a leaf: bytes of the value, and where it begins, or what says where. */
  readonly size: number;
  readonly data: number;
}

function nodeAt(at: number, page: Buffer, index: number): TreeNode {
  const isLeaf = page.readUInt16LE(18) === LEAF;
  const upper = page.readUInt16LE(22);
  const pointer = page.readUInt16LE(PAGE_HEAD_BYTES + 2 * index);
  const start = pointer + PAGE_HEAD_BYTES;
  if (pointer < upper || pointer % 2 !== 0 || start + NODE_HEAD_BYTES > PAGE_BYTES) {
    throw new Fault(at, "a row outside of its page");
  }
  const size = page.readUInt32LE(start);
  const flags = page.readUInt16LE(start + 4);
  const data = start + NODE_HEAD_BYTES + page.readUInt16LE(start + 6);
  const isLong = (flags & NODE_OVERFLOW) !== 0;
  const end = !isLeaf ? data : data + (isLong ? OVERFLOW_BYTES : size);
  if (end > PAGE_BYTES || (isLeaf && (flags & ~(NODE_OVERFLOW | NODE_TREE)) !== 0)) {
    throw new Fault(at, "a row outside of its page");
  }
  const key = page.subarray(start + NODE_HEAD_BYTES, data);
  const child = BigInt(size) + (BigInt(flags) << 32n);
  return { key, flags, child, size, data };
}
