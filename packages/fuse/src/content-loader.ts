import {
  type BlobReader,
  type BlobService,
  CastoreError,
  type Digest,
  parseDigest,
} from "@castore/castore";
import type { ContentRange } from "./content-source.ts";
import type { InodeWriter } from "./inode-writer.ts";
import { NEIGHBOUR_FILE_BYTES_MAX, NeighbourRun, type Run } from "./neighbour-run.ts";

/** Contents are asked for in blocks of this size: the kernel's own read-ahead by default. */
const BLOCK_BYTES = 128 << 10;
/** Most blocks ahead of a program that reads in order; it starts with one and doubles. */
const AHEAD_BLOCKS_MAX = 64;
/** Bytes of blocks that are kept unless told; the kernel's page cache holds what was answered. */
const CACHE_BYTES_MAX = 64 << 20;
export interface ContentLoaderOptions {
  readonly blobs: Pick<BlobService, "open">;
  /** Ends everything that is under way. */
  readonly signal: AbortSignal;
  /** Most bytes of blocks that are kept. */
  readonly cacheBytesMax?: number | undefined;
}

interface Block {
  readonly bytes: Promise<Uint8Array>;
  size: number;
}

/** Blocks of a blob of `size` bytes. */
interface Want {
  readonly size: number;
  readonly first: number;
  readonly last: number;
  /** All of it is wanted. */
  readonly whole?: boolean | undefined;
}

/** What is known of how a file is being read. */
interface Pattern {
  /** Where a program that reads in order goes on, in blocks. */
  next: number;
  /** How many blocks to fetch beyond what is asked for. */
  ahead: number;
  /** Up to where blocks were wanted. */
  end: number;
}

/**
 * Reads ranges of blobs, in blocks, each fetched once however many wait for it. One stream brings
 * a run of blocks; how far it runs ahead follows from the reads before.
 */
export class ContentLoader {
  readonly #table: InodeWriter;
  readonly #blobs: Pick<BlobService, "open">;
  readonly #signal: AbortSignal;
  readonly #cacheBytesMax: number;
  /** What is fetched ahead must not go before it is read. */
  readonly #aheadMax: number;
  /** By digest and number; the order is that of use. */
  readonly #blocks = new Map<string, Block>();
  readonly #patterns = new Map<Digest, Pattern>();
  readonly #neighbours: NeighbourRun;
  #cached = 0;

  constructor(table: InodeWriter, { blobs, signal, cacheBytesMax }: ContentLoaderOptions) {
    this.#table = table;
    this.#blobs = blobs;
    this.#signal = signal;
    this.#cacheBytesMax = cacheBytesMax ?? CACHE_BYTES_MAX;
    const quarter = Math.floor(this.#cacheBytesMax / BLOCK_BYTES / 4);
    this.#aheadMax = Math.min(AHEAD_BLOCKS_MAX, quarter);
    this.#neighbours = new NeighbourRun(table, quarter * BLOCK_BYTES);
  }

  /** The bytes of the range in order, as views that are not to be changed. */
  async read({ id, start, end }: ContentRange): Promise<readonly Uint8Array[]> {
    const digest = parseDigest(this.#table.digestOf(id));
    const size = this.#table.sizeOf(id);
    const first = Math.floor(start / BLOCK_BYTES);
    const last = Math.floor((end - 1) / BLOCK_BYTES);
    // What is on its way already was foreseen, and so is what comes next.
    const isForeseen = this.#blocks.has(blockKey(digest, first));
    this.#want(digest, { size, first, last: this.#lastWanted(digest, first, last) });
    if (!isForeseen && (size <= NEIGHBOUR_FILE_BYTES_MAX || start === 0)) {
      this.#fetchRun(this.#neighbours.after(id));
    }
    const blocks = this.#taken(digest, first, last);
    const pieces: Uint8Array[] = [];
    for (const [index, bytes] of (await Promise.all(blocks)).entries()) {
      const base = (first + index) * BLOCK_BYTES;
      pieces.push(bytes.subarray(Math.max(start - base, 0), Math.min(end - base, BLOCK_BYTES)));
    }
    return pieces;
  }

  /** Brings the range, and nothing else, for a program that is known to read it. */
  async load({ id, start, end }: ContentRange): Promise<void> {
    const digest = parseDigest(this.#table.digestOf(id));
    const size = this.#table.sizeOf(id);
    const first = Math.floor(start / BLOCK_BYTES);
    const last = Math.floor((end - 1) / BLOCK_BYTES);
    this.#want(digest, { size, first, last, whole: end - start === size });
    await Promise.all(this.#taken(digest, first, last));
  }

  /** Blocks that were wanted. All at once: while one is waited for, another could be evicted. */
  #taken(digest: Digest, first: number, last: number): Promise<Uint8Array>[] {
    const blocks: Promise<Uint8Array>[] = [];
    for (let number = first; number <= last; number++) {
      const block = this.#use(blockKey(digest, number));
      if (block === undefined) throw new Error(`blob ${digest}: block ${number} was not started`);
      blocks.push(block.bytes);
    }
    return blocks;
  }

  /** Fetches what comes next, now that a file is read for which `table.awaitRead` was called. */
  wasRead(id: number): void {
    this.#table.awaitRead(id, false);
    this.#fetchRun(this.#neighbours.further(id));
  }

  /** The last block to fetch: some beyond `last` where a program reads in order. */
  #lastWanted(digest: Digest, first: number, last: number): number {
    const pattern = this.#patterns.get(digest);
    this.#patterns.delete(digest);
    // The kernel's own read-ahead is asynchronous: its requests may come slightly out of order.
    const inOrder = pattern !== undefined && Math.abs(first - pattern.next) <= 8;
    const fromStart = pattern === undefined && first === 0;
    let ahead = 0;
    if (inOrder) ahead = Math.min(Math.max(pattern.ahead * 2, 1), this.#aheadMax);
    else if (fromStart) ahead = 1;
    // Many blocks at a time: one more for each that is read would be a request for each.
    const isEnough = inOrder && last + ahead / 2 < pattern.end;
    const end = isEnough ? pattern.end : last + ahead + 1;
    this.#patterns.set(digest, { next: Math.max(last + 1, pattern?.next ?? 0), ahead, end });
    for (const oldest of this.#patterns.keys()) {
      if (this.#patterns.size <= 4096) break;
      this.#patterns.delete(oldest);
    }
    return isEnough ? last : end - 1;
  }

  /** Starts fetching the blocks [first, last] that are not there or on their way. */
  #want(digest: Digest, { size, first, last, whole = false }: Want): void {
    const count = Math.ceil(size / BLOCK_BYTES);
    let run = -1;
    for (let number = first; number <= last + 1; number++) {
      const wanted =
        number <= last && number < count && !this.#blocks.has(blockKey(digest, number));
      if (wanted && run < 0) run = number;
      if (!wanted && run >= 0) {
        this.#fetch(digest, { size, first: run, end: number, whole });
        run = -1;
      }
    }
  }

  /** Fetches the blocks [first, end) with one stream. */
  #fetch(
    digest: Digest,
    { size, first, end, whole }: Omit<Want, "last"> & { readonly end: number },
  ): void {
    const deliver: ((bytes: Uint8Array) => void)[] = [];
    const reject: ((error: unknown) => void)[] = [];
    for (let number = first; number < end; number++) {
      const key = blockKey(digest, number);
      const bytes = new Promise<Uint8Array>((resolve, fail) => {
        deliver.push(resolve);
        reject.push(fail);
      });
      const block: Block = { bytes, size: 0 };
      this.#blocks.set(key, block);
      bytes.then(
        (arrived) => this.#keep(key, block, arrived.byteLength),
        () => this.#blocks.delete(key), // nothing failed is remembered
      );
    }
    const range = { start: first * BLOCK_BYTES, end: Math.min(end * BLOCK_BYTES, size) };
    this.#stream(digest, { size, whole, ...range }, deliver).catch((error: unknown) => {
      for (const fail of reject) fail(error);
    });
  }

  async #stream(
    digest: Digest,
    { start, end, ...blob }: Pick<Want, "size" | "whole"> & { start: number; end: number },
    deliver: ((bytes: Uint8Array) => void)[],
  ): Promise<void> {
    const reader = await this.#open(digest, blob);
    try {
      let block = Buffer.allocUnsafeSlow(Math.min(BLOCK_BYTES, end - start));
      let filled = 0;
      let position = start;
      for await (const piece of reader.stream(start, end, { signal: this.#signal })) {
        for (let taken = 0; taken < piece.byteLength; ) {
          const part = piece.subarray(taken, taken + block.length - filled);
          block.set(part, filled);
          taken += part.byteLength;
          filled += part.byteLength;
          position += part.byteLength;
          if (filled < block.length) continue;
          deliver.shift()?.(block);
          block = Buffer.allocUnsafeSlow(Math.min(BLOCK_BYTES, end - position));
          filled = 0;
          if (block.length === 0) break;
        }
      }
      if (position < end) {
        throw new CastoreError("CORRUPT", `blob ${digest}: ends at ${position} instead of ${end}`);
      }
    } finally {
      await reader.close();
    }
  }

  async #open(digest: Digest, { size, whole }: Pick<Want, "size" | "whole">): Promise<BlobReader> {
    const reader = await this.#blobs.open(digest, { signal: this.#signal, size, whole });
    if (reader === undefined) throw new CastoreError("INCOMPLETE", `blob ${digest}: absent`);
    if (reader.size === size) return reader;
    await reader.close();
    throw new CastoreError("CORRUPT", `blob ${digest}: ${reader.size} bytes instead of ${size}`);
  }

  #use(key: string): Block | undefined {
    const block = this.#blocks.get(key);
    if (block === undefined) return undefined;
    this.#blocks.delete(key);
    this.#blocks.set(key, block);
    return block;
  }

  #keep(key: string, block: Block, size: number): void {
    block.size = size;
    this.#cached += size;
    for (const [oldest, { size: freed }] of this.#blocks) {
      if (this.#cached <= this.#cacheBytesMax) break;
      if (freed === 0 || oldest === key) continue; // on its way
      this.#blocks.delete(oldest);
      this.#cached -= freed;
    }
  }

  /** Starts fetching the files that are likely to be read next. */
  #fetchRun({ files, mark }: Run): void {
    if (mark !== 0) this.#table.awaitRead(mark, true);
    for (const { id, bytes } of files) {
      const size = this.#table.sizeOf(id);
      const last = Math.ceil(bytes / BLOCK_BYTES) - 1;
      const digest = parseDigest(this.#table.digestOf(id));
      this.#want(digest, { size, first: 0, last, whole: bytes === size });
    }
  }
}

function blockKey(digest: Digest, number: number): string {
  return `${digest}:${number}`;
}
