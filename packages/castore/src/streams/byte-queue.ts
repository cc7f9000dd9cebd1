/**
 * Bytes that arrived in pieces and are taken in other portions; each byte is copied at most once.
 */
export class ByteQueue {
  #pieces: Uint8Array[] = [];
  #head = 0;
  #size = 0;

  /** Bytes not taken yet. */
  get size(): number {
    return this.#size;
  }

  /** Adds `piece`, which the queue may hand out again as it is. */
  push(piece: Uint8Array): void {
    if (piece.byteLength === 0) return;
    this.#pieces.push(piece);
    this.#size += piece.byteLength;
  }

  /** The next `count` bytes, or undefined while there are fewer. */
  take(count: number): Buffer | undefined {
    if (count > this.#size) return undefined;
    this.#size -= count;
    const first = this.#pieces[this.#head];
    if (first !== undefined && first.byteLength >= count) {
      this.#consume(first, count);
      return Buffer.from(first.buffer, first.byteOffset, count);
    }
    const taken = Buffer.allocUnsafe(count);
    let filled = 0;
    while (filled < count) {
      const piece = this.#pieces[this.#head];
      if (piece === undefined) break;
      const part = piece.subarray(0, count - filled);
      taken.set(part, filled);
      filled += part.byteLength;
      this.#consume(piece, part.byteLength);
    }
    return taken;
  }

  #consume(piece: Uint8Array, count: number): void {
    if (count < piece.byteLength) {
      this.#pieces[this.#head] = piece.subarray(count);
      return;
    }
    this.#head++;
    if (this.#head < 64 && this.#head < this.#pieces.length) return;
    this.#pieces.splice(0, this.#head);
    this.#head = 0;
  }
}
