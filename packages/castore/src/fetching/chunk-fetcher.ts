import { CastoreError, messageOf } from "../castore-error.ts";
import { type Digest, digestOf } from "../model/digest.ts";
import type { ChunkMeta } from "../services/blob-service.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import { type ChunkPlan, OpenPlan, type PlanKeeper } from "./chunk-plan.ts";
import { createTransferCost, type TransferCost } from "./transfer-cost.ts";

/** Most chunks in one request. */
export const FETCH_ITEMS_MAX = 1_024;
/** Most bytes asked for in one request, unless its only chunk is larger. */
export const FETCH_BYTES_MAX = 8 * 1024 * 1024;
/** Requests under way at once. */
export const FETCH_PARALLEL = 4;
/** Most bytes requested or held for readers that did not ask for them yet. */
export const FETCH_AHEAD_BYTES = 48 * 1024 * 1024;
/** The same for plans that have no reader yet. */
export const FETCH_EARLY_BYTES = 32 * 1024 * 1024;

/** A remote that hands out chunks by digest. It is not trusted: what it gives is verified. */
export interface ChunkTransport {
  /**
   * chunks[i], in order of i. Fewer answers than chunks means that the request broke off.
   */
  fetchChunks(chunks: readonly ChunkMeta[], options: CallOptions): AsyncIterable<FetchedChunk>;
}

export interface FetchedChunk {
  /** Undefined where the remote does not have it. */
  readonly bytes: Uint8Array | undefined;
  /** What it took, the request included if it is the first of one. */
  readonly cost: TransferCost;
}

export interface PlanOptions {
  /** Counts what is fetched for this plan. What several want counts for the first. */
  readonly cost?: TransferCost | undefined;
  /**
   * "early": nobody reads yet. Such chunks go into room that requests for readers leave, or into
   * requests of their own while there are no others, within FETCH_EARLY_BYTES.
   */
  readonly urgency?: "reader" | "early" | undefined;
}

export interface ChunkFetcherLimits {
  readonly parallel?: number;
  readonly aheadBytes?: number;
  readonly earlyBytes?: number;
}

type Urgency = "reader" | "early";

interface Wanted {
  readonly chunk: ChunkMeta;
  /** Takes still to come from all plans. */
  uses: number;
  /** Of the plan that it is fetched for. */
  readonly cost: TransferCost;
  readonly urgency: Urgency;
  readonly bytes: Promise<Uint8Array>;
  settle(bytes: Uint8Array): void;
  fail(error: unknown): void;
  state: "waiting" | "requested" | "held";
  request?: ChunkRequest;
}

/** A request under way; it is given up when nobody wants what is still to come. */
interface ChunkRequest {
  readonly abort: AbortController;
  outstanding: number;
}

/**
 * Fetches chunks for several readers at once in few large requests: a request is filled from all
 * plans, older plans first, and chunks are fetched ahead of their readers within FETCH_AHEAD_BYTES.
 * A chunk that a reader waits for is never held up by that limit, nor by what has no reader yet.
 */
export class ChunkFetcher implements PlanKeeper, Disposable {
  readonly #transport: ChunkTransport;
  readonly #wanted = new Map<Digest, Wanted>();
  readonly #urgent: Wanted[] = [];
  readonly #plans = { reader: new Set<OpenPlan>(), early: new Set<OpenPlan>() };
  readonly #abort = new AbortController();
  readonly #parallel: number;
  readonly #bytesMax: Readonly<Record<Urgency, number>>;
  /** Requested or held. */
  readonly #bytes = { reader: 0, early: 0 };
  #requests = 0;

  constructor(transport: ChunkTransport, limits: ChunkFetcherLimits = {}) {
    this.#transport = transport;
    this.#parallel = limits.parallel ?? FETCH_PARALLEL;
    const { aheadBytes = FETCH_AHEAD_BYTES, earlyBytes = FETCH_EARLY_BYTES } = limits;
    this.#bytesMax = { reader: aheadBytes, early: earlyBytes };
  }

  /** Starts fetching `chunks` ahead. A chunk listed n times may be taken n times at one fetch. */
  plan(chunks: readonly ChunkMeta[], options: PlanOptions = {}): ChunkPlan {
    const { cost = createTransferCost(), urgency = "reader" } = options;
    const plan = new OpenPlan(chunks, this, cost);
    this.#plans[urgency].add(plan);
    this.#fill();
    return plan;
  }

  /** Fails what is under way and refuses more. */
  [Symbol.dispose](): void {
    const reason = new CastoreError("CLOSED", "chunk fetcher: closed");
    this.#abort.abort(reason);
    for (const wanted of this.#wanted.values()) wanted.fail(reason);
    this.#wanted.clear();
    for (const plans of Object.values(this.#plans)) plans.clear();
  }

  take(chunk: ChunkMeta, plan: OpenPlan, isPlanned: boolean): Promise<Uint8Array> {
    const wanted = this.#want(chunk, isPlanned ? 0 : 1, plan, "reader");
    if (wanted.state === "waiting") {
      this.#urgent.push(wanted);
      this.#fill();
    }
    return wanted.bytes.finally(() => this.release(chunk, 1));
  }

  release(chunk: ChunkMeta, uses: number): void {
    const wanted = this.#wanted.get(chunk.digest);
    if (wanted === undefined) return;
    wanted.uses -= uses;
    if (wanted.uses > 0) return;
    this.#forget(wanted);
    if (wanted.state === "requested" && wanted.request !== undefined) {
      wanted.request.outstanding--;
      if (wanted.request.outstanding === 0) wanted.request.abort.abort();
    }
    this.#fill();
  }

  #forget(wanted: Wanted): void {
    if (this.#wanted.get(wanted.chunk.digest) !== wanted) return;
    this.#wanted.delete(wanted.chunk.digest);
    if (wanted.state !== "waiting") this.#bytes[wanted.urgency] -= wanted.chunk.size;
  }

  closePlan(plan: OpenPlan): void {
    for (const plans of Object.values(this.#plans)) plans.delete(plan);
  }

  #want(chunk: ChunkMeta, uses: number, { cost }: OpenPlan, urgency: Urgency): Wanted {
    this.#abort.signal.throwIfAborted();
    let wanted = this.#wanted.get(chunk.digest);
    if (wanted === undefined) {
      wanted = createWanted(chunk, cost, urgency);
      this.#wanted.set(chunk.digest, wanted);
      wanted.uses = Math.max(uses, 1);
    } else {
      wanted.uses += uses;
    }
    return wanted;
  }

  #fill(): void {
    while (this.#requests < this.#parallel && !this.#abort.signal.aborted) {
      const batch = this.#nextBatch();
      if (batch.length === 0) return;
      this.#requests++;
      void this.#request(batch).finally(() => {
        this.#requests--;
        this.#fill();
      });
    }
  }

  #nextBatch(): readonly Wanted[] {
    const batch: Batch = { wanted: [], bytes: 0 };
    for (let wanted = this.#urgent[0]; wanted !== undefined; wanted = this.#urgent[0]) {
      if (isFull(batch, wanted.chunk)) return batch.wanted;
      this.#add(batch, wanted);
      this.#urgent.shift();
    }
    this.#addPlanned(batch, "reader");
    // Alone, early chunks wait until nothing else is under way: that gathers them.
    if (batch.wanted.length > 0 || this.#requests === 0) this.#addPlanned(batch, "early");
    return batch.wanted;
  }

  /** Fills `batch` with what is next in the plans, as far as the limits allow. */
  #addPlanned(batch: Batch, urgency: Urgency): void {
    for (const plan of this.#plans[urgency]) {
      for (let next = plan.peek(); next !== undefined; next = plan.peek()) {
        const known = this.#wanted.get(next.chunk.digest);
        if (known === undefined || isWaiting(known)) {
          const held = this.#bytes[urgency];
          const isOver = held > 0 && held + next.chunk.size > this.#bytesMax[urgency];
          if (isOver || isFull(batch, next.chunk)) return;
        }
        this.#add(batch, this.#want(next.chunk, next.uses, plan, urgency));
        plan.advance();
      }
    }
  }

  #add(batch: Batch, wanted: Wanted): void {
    if (!isWaiting(wanted)) return;
    wanted.state = "requested";
    this.#bytes[wanted.urgency] += wanted.chunk.size;
    batch.wanted.push(wanted);
    batch.bytes += wanted.chunk.size;
  }

  async #request(batch: readonly Wanted[]): Promise<void> {
    const request: ChunkRequest = { abort: new AbortController(), outstanding: batch.length };
    for (const wanted of batch) wanted.request = request;
    const signal = AbortSignal.any([this.#abort.signal, request.abort.signal]);
    let index = 0;
    try {
      const chunks = batch.map(({ chunk }) => chunk);
      for await (const { bytes, cost } of this.#transport.fetchChunks(chunks, { signal })) {
        const wanted = batch[index++];
        if (wanted === undefined) break;
        wanted.cost.requests += cost.requests;
        wanted.cost.bytes += cost.bytes;
        this.#settle(wanted, bytes);
      }
      if (index < batch.length) throw new CastoreError("UNAVAILABLE", "the answer ended early");
    } catch (cause) {
      if (index === 0 && batch[0] !== undefined) batch[0].cost.requests++;
      const what = `fetch of ${batch.length} chunks broke off after ${index}`;
      const error = new CastoreError("UNAVAILABLE", `${what}: ${messageOf(cause)}`, { cause });
      for (const wanted of batch) if (wanted.state === "requested") this.#fail(wanted, error);
    }
  }

  #settle(wanted: Wanted, bytes: Uint8Array | undefined): void {
    const { digest, size } = wanted.chunk;
    if (bytes === undefined) {
      const message = `chunk ${digest}: the remote does not have it`;
      this.#fail(wanted, new CastoreError("INCOMPLETE", message));
    } else if (bytes.byteLength !== size || digestOf(bytes) !== digest) {
      const message = `chunk ${digest} of ${size} bytes: got ${bytes.byteLength} other bytes`;
      this.#fail(wanted, new CastoreError("CORRUPT", message));
    } else {
      this.#received(wanted);
      wanted.settle(bytes);
    }
  }

  /** A failed chunk is forgotten, so that whoever asks again causes another request. */
  #fail(wanted: Wanted, error: unknown): void {
    this.#received(wanted);
    this.#forget(wanted);
    wanted.fail(error);
  }

  #received(wanted: Wanted): void {
    // A chunk given up was subtracted already.
    const wasWanted = this.#wanted.get(wanted.chunk.digest) === wanted;
    if (wasWanted && wanted.request !== undefined) wanted.request.outstanding--;
    wanted.state = "held";
  }
}

/** What goes into one request. */
interface Batch {
  readonly wanted: Wanted[];
  bytes: number;
}

function isFull({ wanted, bytes }: Batch, next: ChunkMeta): boolean {
  return wanted.length === FETCH_ITEMS_MAX || (bytes > 0 && bytes + next.size > FETCH_BYTES_MAX);
}

function isWaiting({ state, uses }: Wanted): boolean {
  return state === "waiting" && uses > 0;
}

function createWanted(chunk: ChunkMeta, cost: TransferCost, urgency: Urgency): Wanted {
  let settle: (bytes: Uint8Array) => void = () => {};
  let fail: (error: unknown) => void = () => {};
  const bytes = new Promise<Uint8Array>((resolve, reject) => {
    settle = resolve;
    fail = reject;
  });
  // A failure nobody waits for any more is nobody's concern.
  bytes.catch(() => {});
  return { chunk, uses: 1, cost, urgency, bytes, settle, fail, state: "waiting" };
}
