/**
 * The loops that look at every byte of every blob: where content-defined chunks end, and where
 * references occur. AssemblyScript, compiled to dist/kernel.wasm by build.js. Its only caller,
 * src/chunking/kernel.ts, says what the functions promise. Addresses are 32-bit and trusted.
 */

const REFERENCE_BYTES: usize = 32;

/** What `scan` and `cut` look at: the caller writes it, 256 KiB at most. */
export const window: usize = memory.data(1 << 18, 16);
/** Two tables of 256 u64: FastCDC's gear, and the same shifted left by one. */
export const gear: usize = memory.data(2 * 256 * 8, 16);
/** What `scan` found: pairs of u32, address and index of the reference. */
export const found: usize = memory.data(((1 << 18) / 32) * 8, 8);
/** For each byte value, 1 where it is a character of nixbase32. */
export const alphabet: usize = memory.data(256, 8);
/** A Bloom filter over the references' first eight bytes: 2^16 bits stay in the L1 cache. */
const bloom: usize = memory.data(8192, 8);

/** Running hash of the chunk that is not yet complete. */
export let hash: u64 = 0;

let sizeMin: i32 = 0;
let sizeAverage: i32 = 0;
let sizeMax: i32 = 0;
let maskSmall: u64 = 0;
let maskLarge: u64 = 0;

export function setChunking(min: i32, average: i32, max: i32, small: u64, large: u64): void {
  sizeMin = min;
  sizeAverage = average;
  sizeMax = max;
  maskSmall = small;
  maskLarge = large;
}

/**
 * Where the chunk ends whose bytes [position, …) lie at [from, to): an address, or 0 where `to`
 * comes first. FastCDC v2020 takes bytes in pairs, so `position` is even, and an odd byte before
 * `to` is not looked at.
 */
export function cut(from: i32, to: i32, position: i32): i32 {
  const base = from - position;
  const first = base + (sizeMin & ~1);
  const end = to - 1;
  let h: u64 = from <= first ? 0 : hash;
  let p = from <= first ? first : from;
  // The masks for even positions are shifted, as the gear is, in place of shifting the hash.
  let mask = maskSmall;
  let limit = base + (sizeAverage & ~1);
  for (let phase = 0; phase < 2; phase++) {
    const stop = min(limit, end);
    const maskShifted = mask << 1;
    while (p < stop) {
      h = (h << 2) + load<u64>(gear + ((<usize>load<u8>(p)) << 3), 2048);
      if ((h & maskShifted) === 0) return p;
      h += load<u64>(gear + ((<usize>load<u8>(p, 1)) << 3));
      if ((h & mask) === 0) return p + 1;
      p += 2;
    }
    mask = maskLarge;
    limit = base + (sizeMax & ~1);
  }
  if (to - base >= sizeMax) return base + sizeMax;
  hash = h;
  return 0;
}

/** Odd, its bits well mixed: the high bits of a product depend on all bits of the key. */
const MULTIPLIER: u64 = (0x9e3779b9 << 32) | 0x7f4a7c15;

let references: usize = 0;
let slots: usize = 0;
let slotMask: usize = 0;

/** References lie at `at`, 32 bytes each; a table of `slotCount` zeroed u32 lies at `table`. */
export function setReferences(at: usize, count: usize, table: usize, slotCount: usize): void {
  references = at;
  slots = table;
  slotMask = slotCount - 1;
  for (let i: usize = 0; i < count; i++) {
    const key = keyOf(load<u64>(at + i * REFERENCE_BYTES));
    const bit = <usize>(key >> 48);
    const byte = bloom + (bit >> 3);
    store<u8>(byte, load<u8>(byte) | (1 << (<u8>(bit & 7))));
    let slot = <usize>(key >> 16) & slotMask;
    while (load<u32>(slots + (slot << 2)) !== 0) slot = (slot + 1) & slotMask;
    store<u32>(slots + (slot << 2), <u32>i + 1);
  }
}

function keyOf(firstBytes: u64): u64 {
  return firstBytes * MULTIPLIER;
}

/** The index of the reference whose 32 bytes lie at `p`, or -1. */
function indexAt(p: usize, key: u64): i32 {
  let slot = <usize>(key >> 16) & slotMask;
  while (true) {
    const index = <usize>load<u32>(slots + (slot << 2));
    if (index === 0) return -1;
    if (memory.compare(p, references + (index - 1) * REFERENCE_BYTES, REFERENCE_BYTES) === 0) {
      return <i32>(index - 1);
    }
    slot = (slot + 1) & slotMask;
  }
}

export let foundCount: i32 = 0;

/**
 * Finds the references in [from, to), leftmost first, none overlapping, notes them in `found` and
 * overwrites each with 32 × "e". Returns the address from which on a reference may begin that is
 * not complete at `to`.
 */
export function scan(from: usize, to: usize): usize {
  foundCount = 0;
  let p = from;
  // [p, checked) holds only characters of the alphabet, so each byte is looked up once.
  let checked = p;
  while (p + REFERENCE_BYTES <= to) {
    // Backwards: the last foreign character of the window rules out every start up to it.
    let q = p + REFERENCE_BYTES;
    while (q > checked && load<u8>(alphabet + <usize>load<u8>(q - 1)) !== 0) q--;
    const foreign = q > checked;
    checked = p + REFERENCE_BYTES;
    if (foreign) {
      p = q;
      continue;
    }
    const key = keyOf(load<u64>(p));
    const bit = <usize>(key >> 48);
    if ((load<u8>(bloom + (bit >> 3)) & (1 << (<u8>(bit & 7)))) !== 0) {
      const index = indexAt(p, key);
      if (index >= 0) {
        note(p, index);
        p += REFERENCE_BYTES;
        continue;
      }
    }
    p++;
  }
  // Only an unbroken run of the alphabet up to `to` may be the beginning of a reference.
  let q = to;
  while (q > p && load<u8>(alphabet + <usize>load<u8>(q - 1)) !== 0) q--;
  return q;
}

function note(p: usize, index: i32): void {
  const at = found + ((<usize>foundCount) << 3);
  store<u32>(at, <u32>p);
  store<u32>(at, <u32>index, 4);
  foundCount++;
  memory.fill(p, 0x65, REFERENCE_BYTES);
}
