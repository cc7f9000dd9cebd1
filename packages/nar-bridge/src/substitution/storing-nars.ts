import { EventEmitter, once } from "node:events";
import type { NarHash } from "../nix/nix-hash.ts";
import type { ServedNar } from "./served-nar.ts";

interface StoringNar {
  /** Resolves once it is stored, or cannot be. */
  readonly done: Promise<void>;
  readonly held: HeldNar | undefined;
}

/** NARs that are proven and on their way into the store. */
export class StoringNars {
  readonly #nars = new Map<NarHash, StoringNar>();
  /** Tells of each NAR hash that may be served from now on. */
  readonly #servable = new EventEmitter().setMaxListeners(0);

  /** `stored` does not reject. Where all of the NAR is in memory, that serves it until then. */
  add(narHash: NarHash, stored: Promise<void>, pieces: readonly Uint8Array[] | undefined): void {
    const held = pieces && new HeldNar(narHash, pieces);
    const done = stored.finally(() => {
      this.#nars.delete(narHash);
      this.#servable.emit(narHash);
    });
    this.#nars.set(narHash, { done, held });
    if (held !== undefined) this.#servable.emit(narHash);
  }

  has(narHash: NarHash): boolean {
    return this.#nars.has(narHash);
  }

  /** The NAR from memory. */
  held(narHash: NarHash): ServedNar | undefined {
    return this.#nars.get(narHash)?.held;
  }

  /** Resolves once the NAR is no longer being stored. */
  async done(narHash: NarHash): Promise<void> {
    await this.#nars.get(narHash)?.done;
  }

  /** Resolves once, in addition, nobody reads it from memory. */
  async left(narHash: NarHash): Promise<void> {
    const nar = this.#nars.get(narHash);
    await nar?.done;
    await nar?.held?.unread();
  }

  /** Resolves once nothing is being stored that is now. */
  async settled(): Promise<void> {
    await Promise.allSettled([...this.#nars.values()].map(({ done }) => done));
  }

  /** Resolves once a NAR of that hash may be served, however slowly its first client takes it. */
  async nextServable(narHash: NarHash, options: { readonly signal: AbortSignal }): Promise<void> {
    await once(this.#servable, narHash, options);
  }
}

/** A proven NAR in memory. */
class HeldNar implements ServedNar {
  readonly etag: string;
  readonly size: number;
  readonly #pieces: readonly Uint8Array[];
  #readers = 0;
  readonly #unread = new EventEmitter();

  constructor(etag: string, pieces: readonly Uint8Array[]) {
    this.etag = etag;
    this.#pieces = pieces;
    this.size = pieces.reduce((sum, { byteLength }) => sum + byteLength, 0);
  }

  async *stream(start: number, end: number): AsyncGenerator<Uint8Array, void, undefined> {
    this.#readers++;
    try {
      let at = 0;
      for (const piece of this.#pieces) {
        const part = piece.subarray(Math.max(0, start - at), Math.max(0, end - at));
        at += piece.byteLength;
        if (part.byteLength > 0) yield part;
      }
    } finally {
      if (--this.#readers === 0) this.#unread.emit("unread");
    }
  }

  async unread(): Promise<void> {
    if (this.#readers > 0) await once(this.#unread, "unread");
  }
}
