interface Loan {
  readonly piece: Uint8Array;
  /** Bytes of parts that are lent. */
  bytes: number;
  isOpen: boolean;
}

/** Pieces of a source of which parts are lent, and which are released once all came back. */
export class LentPieces {
  readonly #release: ((piece: Uint8Array) => void) | undefined;
  /** By their memory; weak, as not everybody gives a part back. */
  readonly #loans = new WeakMap<ArrayBufferLike, Loan>();

  constructor(release: ((piece: Uint8Array) => void) | undefined) {
    this.#release = release;
  }

  /** Parts of `piece` may be lent until `end`. */
  begin(piece: Uint8Array): void {
    if (this.#release === undefined) return;
    this.#loans.set(piece.buffer, { piece, bytes: 0, isOpen: true });
  }

  lend(part: Uint8Array): void {
    const loan = this.#loans.get(part.buffer);
    if (loan !== undefined) loan.bytes += part.byteLength;
  }

  readonly giveBack = (part: Uint8Array): void => {
    const loan = this.#loans.get(part.buffer);
    if (loan === undefined) return;
    loan.bytes -= part.byteLength;
    this.#settle(loan);
  };

  end(piece: Uint8Array): void {
    const loan = this.#loans.get(piece.buffer);
    if (loan === undefined) return;
    loan.isOpen = false;
    this.#settle(loan);
  }

  #settle(loan: Loan): void {
    if (loan.isOpen || loan.bytes > 0) return;
    this.#loans.delete(loan.piece.buffer);
    this.#release?.(loan.piece);
  }
}
