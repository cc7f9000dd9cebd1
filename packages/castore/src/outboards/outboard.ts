import { CastoreError } from "../castore-error.ts";
import { type Digest, digestBytes, digestOf } from "../model/digest.ts";
import type { ByteSource } from "../streams/byte-source.ts";
import { createGroupHasher, GROUP_BYTES, type GroupHasher, VALUE_BYTES } from "./group-hasher.ts";

/** Bytes of a pair of chaining values. */
const PAIR_BYTES = 2 * VALUE_BYTES;

/** Bytes in the outboard of a blob of `size` bytes: 64 for each group but one. */
export function outboardBytes(size: number): number {
  return Math.max(0, groupsOf(size) - 1) * PAIR_BYTES;
}

/**
 * The outboard of a blob (docs/format.md, Outboards): the pairs of BLAKE3's tree above groups of
 * 16 KiB, each before those below it, left before right.
 */
export async function buildOutboard(source: ByteSource): Promise<Uint8Array> {
  const hasher = createGroupHasher();
  const values: Uint8Array[] = [];
  const group = Buffer.alloc(GROUP_BYTES);
  let filled = 0;
  const close = (): void => {
    values.push(Uint8Array.from(hasher.group(group.subarray(0, filled), values.length)));
    filled = 0;
  };
  for await (const piece of source) {
    for (let taken = 0; taken < piece.byteLength; ) {
      if (filled === GROUP_BYTES) close();
      const part = piece.subarray(taken, taken + GROUP_BYTES - filled);
      group.set(part, filled);
      filled += part.byteLength;
      taken += part.byteLength;
    }
  }
  if (filled > 0) close();
  const outboard = new Uint8Array(Math.max(0, values.length - 1) * PAIR_BYTES);
  if (values.length > 1) writePairs(outboard, 0, values, hasher);
  return outboard;
}

/** Writes the pairs above `values` from `at` on; the chaining value of all of them. */
function writePairs(
  outboard: Uint8Array,
  at: number,
  values: readonly Uint8Array[],
  hasher: GroupHasher,
): Uint8Array {
  const [only] = values;
  if (only !== undefined && values.length === 1) return only;
  const left = leftGroups(values.length);
  outboard.set(writePairs(outboard, at + PAIR_BYTES, values.slice(0, left), hasher), at);
  const right = writePairs(outboard, at + PAIR_BYTES * left, values.slice(left), hasher);
  outboard.set(right, at + VALUE_BYTES);
  return Uint8Array.from(hasher.parent(outboard.subarray(at, at + PAIR_BYTES), false));
}

/** The groups of one blob, each of which can be verified by itself. */
export class VerifiedGroups {
  readonly digest: Digest;
  readonly size: number;
  /** The chaining values of the groups. */
  readonly #values: Uint8Array;

  /** Rejects CORRUPT unless `outboard` is that of the blob. */
  constructor(digest: Digest, size: number, outboard: Uint8Array) {
    this.digest = digest;
    this.size = size;
    if (outboard.byteLength !== outboardBytes(size)) {
      const got = `${outboard.byteLength} bytes, want ${outboardBytes(size)}`;
      throw new CastoreError("CORRUPT", `outboard of blob ${digest}: ${got}`);
    }
    this.#values = new Uint8Array(groupsOf(size) * VALUE_BYTES);
    if (outboard.byteLength > 0) {
      this.#read(outboard, { at: 0, first: 0, count: groupsOf(size) }, digestBytes(digest));
    }
  }

  /** Bytes that this takes in memory. */
  get bytes(): number {
    return this.#values.byteLength;
  }

  /**
   * Rejects CORRUPT unless `bytes` are the blob's from `start` on. They are whole groups: `start`
   * is at the beginning of one, and they end at the end of one, or of the blob.
   */
  verify(start: number, bytes: Uint8Array): void {
    if (this.#values.byteLength <= VALUE_BYTES) {
      if (digestOf(bytes) !== this.digest) throw this.#wrong(start);
      return;
    }
    const hasher = sharedHasher();
    for (let at = 0; at < bytes.byteLength; at += GROUP_BYTES) {
      const index = (start + at) / GROUP_BYTES;
      const value = hasher.group(bytes.subarray(at, at + GROUP_BYTES), index);
      if (Buffer.compare(value, this.#valueAt(index)) !== 0) throw this.#wrong(start + at);
    }
  }

  #read(
    outboard: Uint8Array,
    { at, first, count }: { readonly at: number; readonly first: number; readonly count: number },
    expected: Uint8Array,
  ): void {
    if (count === 1) {
      this.#valueAt(first).set(expected);
      return;
    }
    const pair = outboard.subarray(at, at + PAIR_BYTES);
    const isRoot = count * VALUE_BYTES === this.#values.byteLength;
    if (Buffer.compare(sharedHasher().parent(pair, isRoot), expected) !== 0) {
      throw new CastoreError("CORRUPT", `outboard of blob ${this.digest}: wrong at byte ${at}`);
    }
    const left = leftGroups(count);
    const below = { at: at + PAIR_BYTES, first, count: left };
    this.#read(outboard, below, pair.subarray(0, VALUE_BYTES));
    const beside = { at: at + PAIR_BYTES * left, first: first + left, count: count - left };
    this.#read(outboard, beside, pair.subarray(VALUE_BYTES));
  }

  #valueAt(index: number): Uint8Array {
    return this.#values.subarray(index * VALUE_BYTES, (index + 1) * VALUE_BYTES);
  }

  #wrong(at: number): CastoreError {
    return new CastoreError("CORRUPT", `blob ${this.digest}: other bytes at ${at}`);
  }
}

function groupsOf(size: number): number {
  return Math.max(1, Math.ceil(size / GROUP_BYTES));
}

/** Groups in the left part of a tree over `count` of them: the largest power of two below. */
function leftGroups(count: number): number {
  return 2 ** Math.floor(Math.log2(count - 1));
}

/** One for the process: it holds nothing between calls. */
const sharedHasher = (() => {
  let hasher: GroupHasher | undefined;
  return () => {
    hasher ??= createGroupHasher();
    return hasher;
  };
})();
