import { CastoreError } from "@castore/castore";

/** Longest Huffman code of the format. */
const CODE_BITS_MAX = 20;
/** Codes up to this long are found in one step. */
const FAST_BITS = 10;
const FAST_MASK = (1 << FAST_BITS) - 1;
const GROUP_SYMBOLS = 50;
const OUTPUT_BYTES = 1 << 17;
/** A run adds at most this many bytes at once. */
const RUN_BYTES_MAX = 256;

/** Bits of a buffer, first the highest of each byte. */
export class BitReader {
  readonly #bytes: Uint8Array;
  #at = 0;
  #held = 0;
  #heldBits = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** Bytes used up or begun so far. */
  get offset(): number {
    return this.#at - (this.#heldBits >>> 3);
  }

  /** Whole bytes used up, and bits of the next one. */
  get position(): { readonly bytes: number; readonly bits: number } {
    const bits = this.#at * 8 - this.#heldBits;
    return { bytes: bits >>> 3, bits: bits & 7 };
  }

  /** The next `count` ≤ 24 bits. Rejects CORRUPT at the end of the buffer. */
  take(count: number): number {
    const bits = this.peek(count);
    this.skip(count);
    return bits;
  }

  /** The next `count` ≤ 24 bits, zeros where the buffer has ended. */
  peek(count: number): number {
    while (this.#heldBits < count) {
      this.#held = (this.#held << 8) | (this.#bytes[this.#at++] ?? 0);
      this.#heldBits += 8;
    }
    return (this.#held >>> (this.#heldBits - count)) & ((1 << count) - 1);
  }

  /** Passes over bits that were peeked at. Rejects CORRUPT at the end of the buffer. */
  skip(count: number): void {
    this.#heldBits -= count;
    if (this.offset > this.#bytes.byteLength) throw corruptBzip2("input ends inside a block");
  }

  alignToByte(): void {
    this.#heldBits -= this.#heldBits & 7;
  }
}

/** The codes of one Huffman table. */
interface CodeTable {
  /** For each start of FAST_BITS bits: length << 16 | symbol, or 0 where the code is longer. */
  readonly fast: Uint32Array;
  /** By length: the first code above those of this length, left-aligned to CODE_BITS_MAX bits. */
  readonly limits: Uint32Array;
  /** By length: what to add to a code of this length to find it in `symbols`. */
  readonly offsets: Int32Array;
  readonly symbols: Uint16Array;
}

/** A block whose symbols were read; `bytes()` undoes the rest. */
export interface Bzip2Block {
  readonly crc: number;
  /** The contents, in pieces that become the caller's. Rejects CORRUPT where the CRC differs. */
  bytes(): Generator<Uint8Array, void, undefined>;
}

/**
 * Reads a block after its magic number. `links` is scratch space of one element per byte that the
 * block may hold; the block is valid until it is used again. Rejects CORRUPT.
 */
export function readBzip2Block(bits: BitReader, links: Uint32Array): Bzip2Block {
  const crc = ((bits.take(16) << 16) | bits.take(16)) >>> 0;
  if (bits.take(1) === 1) throw corruptBzip2("a block is randomised, as before version 0.9.5");
  const start = bits.take(24);
  const alphabet = readAlphabet(bits);
  const symbolCount = alphabet.length + 2;
  const tableCount = bits.take(3);
  if (tableCount < 2 || tableCount > 6) throw corruptBzip2("a block has a wrong number of tables");
  const selectors = readSelectors(bits, tableCount);
  const tables = Array.from({ length: tableCount }, () => readCodeTable(bits, symbolCount));
  const counts = new Uint32Array(256);
  const length = readSymbols(bits, alphabet, selectors, tables, links, counts);
  if (start >= length) throw corruptBzip2("a block starts outside of itself");
  linkUp(links, length, counts);
  return { crc, bytes: () => unlink(links, length, start, crc) };
}

function readAlphabet(bits: BitReader): Uint8Array {
  const used = bits.take(16);
  const alphabet: number[] = [];
  for (let high = 0; high < 16; high++) {
    if ((used & (0x8000 >>> high)) === 0) continue;
    const row = bits.take(16);
    for (let low = 0; low < 16; low++) {
      if ((row & (0x8000 >>> low)) !== 0) alphabet.push(high * 16 + low);
    }
  }
  if (alphabet.length === 0) throw corruptBzip2("a block uses no byte");
  return Uint8Array.from(alphabet);
}

function readSelectors(bits: BitReader, tableCount: number): Uint8Array {
  const selectors = new Uint8Array(bits.take(15));
  const recent = [0, 1, 2, 3, 4, 5];
  for (let i = 0; i < selectors.length; i++) {
    let index = 0;
    while (bits.take(1) === 1) index++;
    if (index >= tableCount) throw corruptBzip2("a block selects a table that it does not have");
    const [table = 0] = recent.splice(index, 1);
    recent.unshift(table);
    selectors[i] = table;
  }
  return selectors;
}

function readCodeTable(bits: BitReader, symbolCount: number): CodeTable {
  const lengths = new Uint8Array(symbolCount);
  let length = bits.take(5);
  for (let symbol = 0; symbol < symbolCount; symbol++) {
    while (bits.take(1) === 1) length += bits.take(1) === 0 ? 1 : -1;
    if (length < 1 || length > CODE_BITS_MAX) throw corruptBzip2("a code has a wrong length");
    lengths[symbol] = length;
  }
  return codeTableOf(lengths);
}

function codeTableOf(lengths: Uint8Array): CodeTable {
  const fast = new Uint32Array(FAST_MASK + 1);
  const limits = new Uint32Array(CODE_BITS_MAX + 1);
  const offsets = new Int32Array(CODE_BITS_MAX + 1);
  const symbols = new Uint16Array(lengths.length);
  let code = 0;
  let placed = 0;
  for (let length = 1; length <= CODE_BITS_MAX; length++) {
    offsets[length] = placed - code;
    for (let symbol = 0; symbol < lengths.length; symbol++) {
      if (lengths[symbol] !== length) continue;
      if (code >= 1 << length) throw corruptBzip2("a block has more codes than fit");
      if (length <= FAST_BITS) {
        const from = code << (FAST_BITS - length);
        fast.fill((length << 16) | symbol, from, from + (1 << (FAST_BITS - length)));
      }
      symbols[placed++] = symbol;
      code++;
    }
    limits[length] = code << (CODE_BITS_MAX - length);
    code <<= 1;
  }
  return { fast, limits, offsets, symbols };
}

/** The next symbol of a code longer than FAST_BITS. */
function takeLongCode(bits: BitReader, table: CodeTable): number {
  const code = bits.peek(CODE_BITS_MAX);
  for (let length = FAST_BITS + 1; length <= CODE_BITS_MAX; length++) {
    if (code >= (table.limits[length] ?? 0)) continue;
    bits.skip(length);
    const index = (code >>> (CODE_BITS_MAX - length)) + (table.offsets[length] ?? 0);
    return table.symbols[index] ?? 0;
  }
  throw corruptBzip2("a code means nothing");
}

/** Reads symbols into the low bytes of `links`, counting each byte; returns how many bytes. */
function readSymbols(
  bits: BitReader,
  alphabet: Uint8Array,
  selectors: Uint8Array,
  tables: readonly CodeTable[],
  links: Uint32Array,
  counts: Uint32Array,
): number {
  const recent = Uint8Array.from(alphabet);
  const end = alphabet.length + 1;
  let length = 0;
  let run = 0;
  let runUnit = 1;
  for (let group = 0; group < selectors.length; group++) {
    const table = tables[selectors[group] ?? 0];
    if (table === undefined) break;
    const fast = table.fast;
    for (let i = 0; i < GROUP_SYMBOLS; i++) {
      const found = fast[bits.peek(FAST_BITS)] ?? 0;
      if (found !== 0) bits.skip(found >>> 16);
      const symbol = found !== 0 ? found & 0xffff : takeLongCode(bits, table);
      if (symbol < 2) {
        // Runs are written in base two with the digits 1 and 2.
        run += runUnit << symbol;
        runUnit *= 2;
        if (run > links.length) throw corruptBzip2("a block is longer than it may be");
        continue;
      }
      if (run > 0) {
        const byte = recent[0] ?? 0;
        if (length + run > links.length) throw corruptBzip2("a block is longer than it may be");
        links.fill(byte, length, length + run);
        counts[byte] = (counts[byte] ?? 0) + run;
        length += run;
        run = 0;
        runUnit = 1;
      }
      if (symbol === end) return length;
      if (length === links.length) throw corruptBzip2("a block is longer than it may be");
      const byte = moveToFront(recent, symbol - 1);
      counts[byte] = (counts[byte] ?? 0) + 1;
      links[length++] = byte;
    }
  }
  throw corruptBzip2("a block does not end");
}

function moveToFront(recent: Uint8Array, index: number): number {
  const byte = recent[index] ?? 0;
  if (index < 16) for (let i = index; i > 0; i--) recent[i] = recent[i - 1] ?? 0;
  else recent.copyWithin(1, 0, index);
  recent[0] = byte;
  return byte;
}

/** Writes into the upper 24 bits of each link where the byte that follows it stands. */
function linkUp(links: Uint32Array, length: number, counts: Uint32Array): void {
  const next = new Uint32Array(256);
  let sum = 0;
  for (let byte = 0; byte < 256; byte++) {
    next[byte] = sum;
    sum += counts[byte] ?? 0;
  }
  for (let i = 0; i < length; i++) {
    const byte = (links[i] ?? 0) & 0xff;
    const at = next[byte] ?? 0;
    next[byte] = at + 1;
    links[at] = (links[at] ?? 0) | (i << 8);
  }
}

function* unlink(
  links: Uint32Array,
  length: number,
  start: number,
  wantCrc: number,
): Generator<Uint8Array, void, undefined> {
  let output = Buffer.allocUnsafe(OUTPUT_BYTES);
  let filled = 0;
  let crc = 0xffffffff;
  let at = (links[start] ?? 0) >>> 8;
  let previous = -1;
  let equal = 0;
  for (let i = 0; i < length; i++) {
    const link = links[at] ?? 0;
    at = link >>> 8;
    const byte = link & 0xff;
    if (filled > OUTPUT_BYTES - RUN_BYTES_MAX) {
      yield output.subarray(0, filled);
      output = Buffer.allocUnsafe(OUTPUT_BYTES);
      filled = 0;
    }
    if (equal === 4) {
      // After four equal bytes comes how many more of them there are.
      output.fill(previous, filled, filled + byte);
      filled += byte;
      for (let j = 0; j < byte; j++) crc = nextCrc(crc, previous);
      equal = 0;
      previous = -1;
      continue;
    }
    equal = byte === previous ? equal + 1 : 1;
    previous = byte;
    output[filled++] = byte;
    crc = nextCrc(crc, byte);
  }
  if ((crc ^ 0xffffffff) >>> 0 !== wantCrc) throw corruptBzip2("the CRC of a block differs");
  yield output.subarray(0, filled);
}

const CRC_TABLE = Int32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 24;
  for (let i = 0; i < 8; i++) crc = (crc << 1) ^ (crc < 0 ? 0x04c11db7 : 0);
  return crc;
});

function nextCrc(crc: number, byte: number): number {
  return (crc << 8) ^ (CRC_TABLE[(crc >>> 24) ^ byte] ?? 0);
}

export function corruptBzip2(what: string): CastoreError {
  return new CastoreError("CORRUPT", `bzip2: ${what}`);
}
