import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

/** Sizes between which content-defined chunks are cut. Bytes. */
export interface ChunkSizes {
  readonly min: number;
  readonly average: number;
  readonly max: number;
}

/** Characters in a reference: the hash part of a store path, in nixbase32. */
export const REFERENCE_LENGTH = 32;

/** Bytes that a kernel looks at in one call. */
export const KERNEL_WINDOW_BYTES = 1 << 18;

/** A reference at an address of the kernel's memory. */
export interface FoundReference {
  readonly at: number;
  readonly index: number;
}

/**
 * The WebAssembly loops over the bytes of blobs (kernel/kernel.ts), for one choice of chunk sizes
 * and references. Holds nothing between calls but `hash`, so several streams may use one in turn.
 * About 0.5 MB and 0.1 ms to make; a process can
 * hold some 10,000 at a time, as each reserves 10 GB of address space.
 */
export interface Kernel {
  /** The kernel's memory; KERNEL_WINDOW_BYTES from `window` on are for the bytes to look at. */
  readonly bytes: Uint8Array;
  readonly window: number;
  /**
   * Where the chunk ends whose bytes [position, …) lie at [from, to): an address ≤ `to`, or 0 where
   * it goes on. `position` is even; an odd byte before `to` is not looked at, and must be shown
   * again. `hash` carries over from one call for a chunk to the next.
   */
  cut(from: number, to: number, position: number): number;
  hash: bigint;
  /**
   * Finds references in [from, to), leftmost first, none overlapping, and overwrites each with
   * 32 × "e". The bytes from the returned address on may be the beginning of one that goes on
   * beyond `to`, and must be shown again.
   */
  scan(from: number, to: number): number;
  /** What the last `scan` found, in ascending order. */
  found(): FoundReference[];
}

interface Exported<T> {
  value: T;
}

/** What kernel/kernel.ts exports. */
interface KernelExports {
  readonly memory: { readonly buffer: ArrayBuffer; grow(pages: number): number };
  readonly window: Exported<number>;
  readonly gear: Exported<number>;
  readonly found: Exported<number>;
  readonly foundCount: Exported<number>;
  readonly alphabet: Exported<number>;
  readonly hash: Exported<bigint>;
  setChunking(min: number, average: number, max: number, small: bigint, large: bigint): void;
  setReferences(at: number, count: number, table: number, slotCount: number): void;
  cut(from: number, to: number, position: number): number;
  scan(from: number, to: number): number;
}

/** The part of the standard global that is used here: @types/node does not declare it. */
declare const WebAssembly: {
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (module: object) => { readonly exports: KernelExports };
};

/** What all kernels share, made when the first of them is: a process that never cuts has none. */
const shared = (() => {
  let parts: { readonly module: object; readonly gear: Buffer } | undefined;
  return () => {
    parts ??= {
      module: new WebAssembly.Module(readFileSync(new URL("../kernel.wasm", import.meta.url))),
      gear: makeGear(),
    };
    return parts;
  };
})();

/**
 * FastCDC's gear, for each byte value the first 8 bytes of the MD5 of 64 such bytes, and the same
 * shifted left by one: as the kernel's memory holds them. Takes 1 ms.
 */
function makeGear(): Buffer {
  const tables = Buffer.alloc(2 * 2048);
  for (let byte = 0; byte < 256; byte++) {
    const gear = createHash("md5").update(Buffer.alloc(64, byte)).digest().readBigUInt64BE(0);
    tables.writeBigUInt64LE(gear, 8 * byte);
    tables.writeBigUInt64LE(BigInt.asUintN(64, gear << 1n), 2048 + 8 * byte);
  }
  return tables;
}

const ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz";

/** `references` are distinct, 32 characters of nixbase32 each. */
export function createKernel(sizes: ChunkSizes, references: readonly string[] = []): Kernel {
  const { module, gear } = shared();
  const { exports } = new WebAssembly.Instance(module);
  const { memory, hash, foundCount, cut, scan } = exports;
  const slotCount = 2 ** Math.ceil(Math.log2(2 * references.length + 1));
  const referencesAt = memory.buffer.byteLength;
  const slotsAt = referencesAt + references.length * REFERENCE_LENGTH;
  memory.grow(Math.ceil((slotsAt + slotCount * 4 - referencesAt) / 65_536));
  const bytes = new Uint8Array(memory.buffer);
  const view = new DataView(memory.buffer);

  bytes.set(gear, exports.gear.value);
  const [small, large] = masksOf(sizes.average);
  exports.setChunking(sizes.min, sizes.average, sizes.max, small, large);
  const alphabetAt = exports.alphabet.value;
  for (const character of ALPHABET) bytes[alphabetAt + character.charCodeAt(0)] = 1;
  bytes.set(Buffer.from(references.join(""), "latin1"), referencesAt);
  exports.setReferences(referencesAt, references.length, slotsAt, slotCount);

  const foundAt = exports.found.value;
  return {
    bytes,
    window: exports.window.value,
    cut,
    scan,
    get hash() {
      return hash.value;
    },
    set hash(value) {
      hash.value = value;
    },
    found() {
      return Array.from({ length: foundCount.value }, (_, i) => ({
        at: view.getUint32(foundAt + 8 * i, true),
        index: view.getUint32(foundAt + 8 * i + 4, true),
      }));
    },
  };
}

/** Masks of FastCDC v2020 by the logarithm of the size, from 2^8 on. */
const MASKS: readonly bigint[] = [
  0x1800035300n,
  0x19000353000n,
  0x590003530000n,
  0xd90003530000n,
  0xd90103530000n,
  0xd90303530000n,
  0xd90313530000n,
  0xd90f03530000n,
  0xd90303537000n,
  0xd90703537000n,
  0xd90707537000n,
  0xd91707537000n,
  0xd91747537000n,
  0xd91767537000n,
  0xd93767537000n,
];

/** Normalization level 1: one bit more before the average size, one bit less beyond it. */
function masksOf(average: number): readonly [bigint, bigint] {
  const bits = Math.round(Math.log2(average));
  const [small, large] = [MASKS[bits + 1 - 8], MASKS[bits - 1 - 8]];
  if (small === undefined || large === undefined) {
    throw new RangeError(`average chunk size ${average}: want 512 to 2097152`);
  }
  return [small, large];
}
