import type { Digest } from "../model/digest.ts";
import type { ChunkMeta } from "../services/blob-service.ts";
import type { TransferCost } from "./transfer-cost.ts";

/** The chunks that one reader will need, in the order in which it will take them. */
export interface ChunkPlan extends Disposable {
  /**
   * The verified bytes of `chunk`, shared with other takers: not to be changed. Rejects INCOMPLETE
   * where the remote lacks it, CORRUPT where its bytes are wrong, UNAVAILABLE where the request
   * failed.
   */
  take(chunk: ChunkMeta): Promise<Uint8Array>;
}

/** What a plan asks of its fetcher. */
export interface PlanKeeper {
  /** `isPlanned`: the take was announced by `peek`. */
  take(chunk: ChunkMeta, plan: OpenPlan, isPlanned: boolean): Promise<Uint8Array>;
  /** Gives back `uses` takes that were announced. */
  release(chunk: ChunkMeta, uses: number): void;
  closePlan(plan: OpenPlan): void;
}

/** A plan as the fetcher sees it. */
export class OpenPlan implements ChunkPlan {
  readonly cost: TransferCost;
  readonly #fetcher: PlanKeeper;
  readonly #order: readonly ChunkMeta[];
  /** Takes left of each chunk that was handed to the fetcher or still will be. */
  readonly #uses = new Map<Digest, number>();
  readonly #admitted = new Set<Digest>();
  #position = 0;
  #closed = false;

  constructor(chunks: readonly ChunkMeta[], fetcher: PlanKeeper, cost: TransferCost) {
    this.#fetcher = fetcher;
    this.cost = cost;
    const order: ChunkMeta[] = [];
    for (const chunk of chunks) {
      const uses = this.#uses.get(chunk.digest) ?? 0;
      if (uses === 0) order.push(chunk);
      this.#uses.set(chunk.digest, uses + 1);
    }
    this.#order = order;
  }

  /** The next chunk to fetch ahead and the takes it is for; undefined when there is none. */
  peek(): { readonly chunk: ChunkMeta; readonly uses: number } | undefined {
    for (;;) {
      const chunk = this.#order[this.#position];
      if (chunk === undefined || this.#closed) return undefined;
      const uses = this.#uses.get(chunk.digest) ?? 0;
      if (uses > 0 && !this.#admitted.has(chunk.digest)) return { chunk, uses };
      this.#position++;
    }
  }

  advance(): void {
    const chunk = this.#order[this.#position++];
    if (chunk !== undefined) this.#admitted.add(chunk.digest);
  }

  take(chunk: ChunkMeta): Promise<Uint8Array> {
    const uses = this.#uses.get(chunk.digest) ?? 0;
    if (uses === 0) return this.#fetcher.take(chunk, this, false);
    this.#uses.set(chunk.digest, uses - 1);
    return this.#fetcher.take(chunk, this, this.#admitted.has(chunk.digest));
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#fetcher.closePlan(this);
    for (const chunk of this.#order) {
      const uses = this.#uses.get(chunk.digest) ?? 0;
      if (uses > 0 && this.#admitted.has(chunk.digest)) this.#fetcher.release(chunk, uses);
    }
  }
}
