import { mkdir, open, writeFile } from "node:fs/promises";
import { join } from "node:path";

const FILES_PER_DIRECTORY = 50;
const PIECE_BYTES = 1 << 20;

/**
 * A tree of `count` files in directories of 50, of 128 bytes to 32 KiB, most of them small (6 KiB
 * in the mean, as in a package of text), no two alike, one in ten executable.
 */
export async function writeTree(path: string, count: number): Promise<void> {
  const bytes = pseudoRandomBytes(1 << 20, 1);
  for (let index = 0; index < count; index++) {
    const directory = join(path, `${Math.floor(index / FILES_PER_DIRECTORY)}`.padStart(5, "0"));
    if (index % FILES_PER_DIRECTORY === 0) await mkdir(directory, { recursive: true });
    const random = bytes.readUInt32LE((index * 8) % (bytes.byteLength - 8)) / 2 ** 32;
    const start = (index * 64) % (bytes.byteLength - (1 << 15));
    const contents = Buffer.from(bytes.subarray(start, start + Math.floor(2 ** (7 + 8 * random))));
    contents.writeUInt32LE(index);
    await writeFile(join(directory, `file-${index}`), contents, {
      mode: index % 10 === 0 ? 0o755 : 0o644,
    });
  }
}

/** A file of `size` bytes in which no two MiB are alike. */
export async function writeLargeFile(path: string, size: number): Promise<void> {
  const piece = pseudoRandomBytes(PIECE_BYTES, 2);
  await using file = await open(path, "w");
  for (let at = 0; at < size; at += PIECE_BYTES) {
    // One word in each 4 KiB says which piece it is.
    for (let word = 0; word < PIECE_BYTES; word += 4096) piece.writeUInt32LE(at >>> 20, word);
    await file.write(piece, 0, Math.min(PIECE_BYTES, size - at));
  }
}

/** xorshift32: a corpus is the same in every run. */
export function pseudoRandomBytes(size: number, seed: number): Buffer {
  const words = new Uint32Array(size / 4);
  let state = seed;
  for (let index = 0; index < words.length; index++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[index] = state;
  }
  return Buffer.from(words.buffer);
}
