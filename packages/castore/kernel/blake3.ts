/**
 * BLAKE3's tree below the root: chaining values of groups of 16 KiB, and of pairs of them. (The
 * library that hashes whole blobs does not give these.) AssemblyScript, compiled to
 * dist/blake3.wasm by build.js. Its only caller, src/outboards/group-hasher.ts, says what the
 * functions promise. Rows of the state are vectors, as in the SSE2 code of BLAKE3's paper.
 */

const CHUNK_START: u32 = 1;
const CHUNK_END: u32 = 2;
const PARENT: u32 = 4;
const ROOT: u32 = 8;

/** What `group` and `parent` look at: the caller writes it, 16 KiB at most. */
export const input: usize = memory.data(1 << 14, 16);
/** What they give: 32 bytes. */
export const output: usize = memory.data(32, 16);

/** Chaining values of subtrees that are whole, the largest first. */
const stack: usize = memory.data(16 * 32, 16);
const message: usize = memory.data(64, 16);
const permuted: usize = memory.data(64, 16);

const IV: usize = memory.data<u32>([
  0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
]);

/**
 * In what order the words of a message lie in `message`: first words of the four columns, then
 * their second, then those of the diagonals. PERMUTATION gives for each place of the next round
 * the place of this one.
 */
const ORDER: usize = memory.data<u8>([0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]);
const PERMUTATION: usize = memory.data<u8>([1, 5, 7, 2, 3, 9, 0, 14, 4, 10, 12, 15, 13, 6, 11, 8]);

function rotate(v: v128, bits: i32): v128 {
  return v128.or(i32x4.shr_u(v, bits), i32x4.shl(v, 32 - bits));
}

/** Compresses the block at `block` into the chaining value at `value`, in place. */
function compress(value: usize, block: usize, chunk: u64, length: u32, flags: u32): void {
  for (let i: usize = 0; i < 16; i++) {
    store<u32>(message + (i << 2), load<u32>(block + ((<usize>load<u8>(ORDER + i)) << 2)));
  }
  let a = v128.load(value);
  let b = v128.load(value, 16);
  let c = v128.load(IV);
  let d = i32x4(<i32>chunk, <i32>(chunk >> 32), <i32>length, <i32>flags);
  for (let round = 0; round < 7; round++) {
    a = i32x4.add(i32x4.add(a, b), v128.load(message));
    d = rotate(v128.xor(d, a), 16);
    c = i32x4.add(c, d);
    b = rotate(v128.xor(b, c), 12);
    a = i32x4.add(i32x4.add(a, b), v128.load(message, 16));
    d = rotate(v128.xor(d, a), 8);
    c = i32x4.add(c, d);
    b = rotate(v128.xor(b, c), 7);
    b = v128.shuffle<i32>(b, b, 1, 2, 3, 0);
    c = v128.shuffle<i32>(c, c, 2, 3, 0, 1);
    d = v128.shuffle<i32>(d, d, 3, 0, 1, 2);
    a = i32x4.add(i32x4.add(a, b), v128.load(message, 32));
    d = rotate(v128.xor(d, a), 16);
    c = i32x4.add(c, d);
    b = rotate(v128.xor(b, c), 12);
    a = i32x4.add(i32x4.add(a, b), v128.load(message, 48));
    d = rotate(v128.xor(d, a), 8);
    c = i32x4.add(c, d);
    b = rotate(v128.xor(b, c), 7);
    b = v128.shuffle<i32>(b, b, 3, 0, 1, 2);
    c = v128.shuffle<i32>(c, c, 2, 3, 0, 1);
    d = v128.shuffle<i32>(d, d, 1, 2, 3, 0);
    if (round === 6) break;
    for (let i: usize = 0; i < 16; i++) {
      const from = (<usize>load<u8>(PERMUTATION + i)) << 2;
      store<u32>(permuted + (i << 2), load<u32>(message + from));
    }
    memory.copy(message, permuted, 64);
  }
  v128.store(value, v128.xor(a, c));
  v128.store(value, v128.xor(b, d), 16);
}

/** The chaining value, at `value`, of the chunk of `length` bytes at `at`: 1 to 1,024. */
function hashChunk(value: usize, at: usize, length: usize, chunk: u64): void {
  memory.copy(value, IV, 32);
  const end = at + length;
  let flags = CHUNK_START;
  while (at + 64 < end) {
    compress(value, at, chunk, 64, flags);
    flags = 0;
    at += 64;
  }
  const left = end - at;
  // What lies beyond the input's end is the caller's to leave, so the last block is copied.
  memory.fill(last, 0, 64);
  memory.copy(last, at, left);
  compress(value, last, chunk, <u32>left, flags | CHUNK_END);
}

const last: usize = memory.data(64, 16);

/** Joins the two chaining values at `value`, in place. */
function join(value: usize, flags: u32): void {
  memory.copy(last, value, 64);
  memory.copy(value, IV, 32);
  compress(value, last, 0, 64, PARENT | flags);
}

/** The chaining value of the `length` bytes at `input`, whose first chunk has this number. */
export function group(length: usize, firstChunk: u64): void {
  let count: u32 = 0;
  let top = stack;
  for (let at: usize = 0; at < length; at += 1024) {
    hashChunk(top, input + at, min(length - at, 1024), firstChunk + <u64>count);
    top += 32;
    count++;
    // As many subtrees are whole as the count has zeros at its end; the last one waits.
    if (at + 1024 < length) {
      for (let rest = count; (rest & 1) === 0; rest >>= 1) {
        top -= 32;
        join(top - 32, 0);
      }
    }
  }
  while (top > stack + 32) {
    top -= 32;
    join(top - 32, 0);
  }
  memory.copy(output, stack, 32);
}

/** The chaining value of the pair at `input`; of the whole tree with `isRoot`. */
export function parent(isRoot: i32): void {
  memory.copy(stack, input, 64);
  join(stack, isRoot ? ROOT : 0);
  memory.copy(output, stack, 32);
}
