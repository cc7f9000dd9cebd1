/** Bytes of a piece from a pool, at most: read or written at once. */
export const POOLED_PIECE_BYTES = 1 << 19;
/** Free pieces that are kept: what one stream has under way. */
const FREE_PIECES_MAX = 8;

/**
 * Memory for the pieces of a stream, used again. V8 collects all its garbage for each 64 MB of
 * pieces that are new: for a file of 2 GB that took a second of CPU.
 */
export class PiecePool {
  readonly #free: ArrayBufferLike[] = [];
  /** The memory that it gave out and has not yet got back. */
  readonly #taken = new WeakSet<ArrayBufferLike>();

  /** A piece of `size` bytes, POOLED_PIECE_BYTES at most, for its taker alone until it is given. */
  take(size: number): Buffer {
    const memory = this.#free.pop() ?? Buffer.allocUnsafeSlow(POOLED_PIECE_BYTES).buffer;
    this.#taken.add(memory);
    return Buffer.from(memory, 0, size);
  }

  /** Takes a piece back, of which nobody uses a part any more. Others are left alone. */
  readonly give = (piece: Uint8Array): void => {
    if (!this.#taken.delete(piece.buffer)) return;
    if (this.#free.length < FREE_PIECES_MAX) this.#free.push(piece.buffer);
  };
}
