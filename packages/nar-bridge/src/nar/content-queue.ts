/** Pieces on their way from one writer, who does not wait, to one reader, who does. */
export class ContentQueue {
  readonly #taken: (bytes: number) => void;
  #pieces: Uint8Array[] = [];
  #ended = false;
  #failure: { readonly reason: unknown } | undefined;
  #wake: (() => void) | undefined;

  /** `taken` is told of every piece that is no longer held here. */
  constructor(taken: (bytes: number) => void) {
    this.#taken = taken;
  }

  /** Adds `piece`, which becomes the reader's. */
  push(piece: Uint8Array): void {
    this.#pieces.push(piece);
    this.#wake?.();
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  /** Makes the reader throw `reason`, and drops what it has not read. */
  fail(reason: unknown): void {
    this.#failure = { reason };
    this.#wake?.();
  }

  async *read(): AsyncGenerator<Uint8Array, void, undefined> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure.reason;
      const pieces = this.#pieces;
      this.#pieces = [];
      for (const piece of pieces) {
        yield piece;
        this.#taken(piece.byteLength);
      }
      if (pieces.length > 0) continue;
      if (this.#ended) return;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}
