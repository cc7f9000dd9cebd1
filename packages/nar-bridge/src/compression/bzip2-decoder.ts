import { setImmediate } from "node:timers/promises";
import type { ByteSource } from "@castore/castore";
import { BitReader, corruptBzip2, readBzip2Block } from "./bzip2-block.ts";

/** No block is longer compressed: 900,000 codes of 20 bits, and the tables before them. */
const BLOCK_BYTES_MAX = 2_250_000 + 65_536;
const BLOCK_MAGIC = 0x314159265359;
const END_MAGIC = 0x177245385090;

/**
 * Decompresses one or more bzip2 streams, block by block in at most 10 MiB of memory. Rejects
 * CORRUPT where the input is empty, cut short, damaged (every block has a CRC) or followed by
 * something else.
 */
export async function* decodeBzip2(
  source: ByteSource,
): AsyncGenerator<Uint8Array, void, undefined> {
  const input = createWindow(source);
  try {
    let links: Uint32Array | undefined;
    let bytes = await input.fill(0);
    if (bytes.byteLength === 0) throw corruptBzip2("input is empty");
    while (bytes.byteLength > 0) {
      const header = bytes.subarray(0, 4).toString("latin1");
      if (!/^BZh[1-9]$/.test(header)) throw corruptBzip2("input is not bzip2");
      const capacity = 100_000 * Number(header.slice(3));
      if (links?.length !== capacity) links = new Uint32Array(capacity);
      yield* decodeStream(input, links);
      bytes = await input.fill(0);
    }
  } finally {
    await input.close();
  }
}

/** Decodes from after the header of a stream to its end. */
async function* decodeStream(
  input: InputWindow,
  links: Uint32Array,
): AsyncGenerator<Uint8Array, void, undefined> {
  let bits = new BitReader(await input.fill(4));
  let combinedCrc = 0;
  for (;;) {
    const magic = bits.take(24) * 0x1000000 + bits.take(24);
    if (magic === END_MAGIC) break;
    if (magic !== BLOCK_MAGIC) throw corruptBzip2("a block does not start with the magic number");
    const block = readBzip2Block(bits, links);
    yield* block.bytes();
    combinedCrc = ((combinedCrc << 1) | (combinedCrc >>> 31)) ^ block.crc;
    // A block takes tens of milliseconds: let others have the thread.
    await setImmediate();
    bits = await input.refill(bits);
  }
  const crc = (bits.take(16) << 16) | bits.take(16);
  if (crc !== (combinedCrc | 0)) throw corruptBzip2("the CRC of the stream differs");
  bits.alignToByte();
  await input.fill(bits.offset);
}

/** What is left of a source, with at least one block of it at hand. */
interface InputWindow {
  /** Drops `used` bytes, and returns at least BLOCK_BYTES_MAX bytes or all that is left. */
  fill(used: number): Promise<Buffer>;
  /** As `fill`, for a reader in the middle of a byte. */
  refill(bits: BitReader): Promise<BitReader>;
  close(): Promise<void>;
}

function createWindow(source: ByteSource): InputWindow {
  const iterator =
    Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
  let ended = false;
  let bytes = Buffer.alloc(0);
  async function fill(used: number): Promise<Buffer> {
    const pieces: Uint8Array[] = [bytes.subarray(used)];
    let length = bytes.byteLength - used;
    while (!ended && length < BLOCK_BYTES_MAX) {
      const next = await iterator.next();
      if (next.done === true) {
        ended = true;
      } else {
        pieces.push(next.value);
        length += next.value.byteLength;
      }
    }
    bytes = pieces.length === 1 ? bytes.subarray(used) : Buffer.concat(pieces, length);
    return bytes;
  }
  return {
    fill,
    async refill(bits) {
      const position = bits.position;
      const refilled = new BitReader(await fill(position.bytes));
      refilled.take(position.bits);
      return refilled;
    },
    async close() {
      if (!ended) await iterator.return?.();
    },
  };
}
