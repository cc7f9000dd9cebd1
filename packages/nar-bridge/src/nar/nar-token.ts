/**
 * The tokens of the NAR format: a string is its length as u64 in little endian, its bytes, and
 * zeros up to a multiple of 8. What always follows each other is kept as one run of bytes.
 */

/** Bytes of a string of `length` bytes with its padding, without its length. */
export function paddedLength(length: number): number {
  return length + paddingOf(length);
}

/** Bytes of padding after `length` bytes: up to 2^53 − 1, so no bit operators. */
export function paddingOf(length: number): number {
  return (8 - (length % 8)) % 8;
}

function tokens(...words: readonly string[]): Buffer {
  return Buffer.concat(
    words.map((word) => {
      const token = Buffer.alloc(8 + paddedLength(word.length));
      token.writeUInt32LE(word.length);
      token.write(word, 8, "latin1");
      return token;
    }),
  );
}

export const NAR_TOKENS = {
  /** Before the root's type. */
  start: tokens("nix-archive-1", "(", "type"),
  regular: tokens("regular"),
  executable: tokens("executable", ""),
  /** The size and the bytes follow. */
  contents: tokens("contents"),
  symlink: tokens("symlink"),
  target: tokens("target"),
  directory: tokens("directory"),
  entry: tokens("entry"),
  /** Before an entry's name. */
  entryName: tokens("(", "name"),
  /** Between an entry's name and its type. */
  entryNode: tokens("node", "(", "type"),
  /** Ends a node, and once more the entry that holds it. */
  end: tokens(")"),
} as const;

/** Most directories within each other. A path of more cannot be unpacked: PATH_MAX is 4096. */
export const NAR_DEPTH_MAX = 2048;
