import { CastoreError } from "../castore-error.ts";
import { type Digest, digestOf } from "../model/digest.ts";
import type { ChunkMeta } from "../services/blob-service.ts";
import type { CallOptions } from "../streams/byte-source.ts";

/** Most chunks in one request. */
export const FETCH_ITEMS_MAX = 1_024;
/** Most bytes asked for in one request, unless its only chunk is larger. */
export const FETCH_BYTES_MAX = 8 * 1024 * 1024;
/** Requests under way at once. */
export const FETCH_PARALLEL = 4;
/** Most bytes requested or held for consumers that did not ask for them yet. */
export const FETCH_AHEAD_BYTES = 48 * 1024 * 1024;

/** A remote that hands out chunks by digest. It is not trusted: what it gives is verified. */
export interface ChunkTransport {
  /**
   * The bytes of chunks[i], in order of i; undefined where the remote does not have it. Fewer
   * answers than chunks means that the request broke off.
   */
  fetchChunks(
    chunks: readonly ChunkMeta[],
    options: CallOptions,
  ): AsyncIterable<Uint8Array | undefined>;
}

/** The chunks that one reader will need, in the order in which it will take them. */
export interface ChunkPlan extends Disposable {
  /**
   * The verified bytes of `chunk`, shared with other takers: not to be changed. Rejects INCOMPLETE
   * where the remote lacks it, CORRUPT where its bytes are wrong, UNAVAILABLE where the request
   * failed.
   */
  take(chunk: ChunkMeta): Promise<Uint8Array>;
}

interface Wanted {
  readonly chunk: ChunkMeta;
  /** Takes still to come from all plans. */
  uses: number;
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
 * A chunk that a reader waits for is never held up by that limit.
 */
export class ChunkFetcher implements Disposable {
  readonly #transport: ChunkTransport;
  readonly #wanted = new Map<Digest, Wanted>();
  readonly #urgent: Wanted[] = [];
  readonly #plans = new Set<OpenPlan>();
  readonly #abort = new AbortController();
  readonly #parallel: number;
  readonly #aheadBytesMax: number;
  #requests = 0;
  #aheadBytes = 0;

  constructor(
    transport: ChunkTransport,
    limits: { readonly parallel?: number; readonly aheadBytes?: number } = {},
  ) {
    this.#transport = transport;
    this.#parallel = limits.parallel ?? FETCH_PARALLEL;
    this.#aheadBytesMax = limits.aheadBytes ?? FETCH_AHEAD_BYTES;
  }

  /** Starts fetching `chunks` ahead. A chunk listed n times may be taken n times at one fetch. */
  plan(chunks: readonly ChunkMeta[]): ChunkPlan {
    const plan = new OpenPlan(chunks, this);
    this.#plans.add(plan);
    this.#fill();
    return plan;
  }

  /** Fails what is under way and refuses more. */
  [Symbol.dispose](): void {
    const reason = new CastoreError("CLOSED", "chunk fetcher: closed");
    this.#abort.abort(reason);
    for (const wanted of this.#wanted.values()) wanted.fail(reason);
    this.#wanted.clear();
    this.#plans.clear();
  }

  take(chunk: ChunkMeta, planned: boolean): Promise<Uint8Array> {
    const wanted = this.#want(chunk, planned ? 0 : 1);
    if (wanted.state === "waiting") {
      this.#urgent.push(wanted);
      this.#fill();
    }
    return wanted.bytes.finally(() => this.release(chunk, 1));
  }

  /** Gives back `uses` takes that were planned. */
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
    if (wanted.state !== "waiting") this.#aheadBytes -= wanted.chunk.size;
  }

  closePlan(plan: OpenPlan): void {
    this.#plans.delete(plan);
  }

  #want(chunk: ChunkMeta, uses: number): Wanted {
    this.#abort.signal.throwIfAborted();
    let wanted = this.#wanted.get(chunk.digest);
    if (wanted === undefined) {
      wanted = createWanted(chunk);
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

  #nextBatch(): Wanted[] {
    const batch: Wanted[] = [];
    let bytes = 0;
    const isFull = (next: ChunkMeta): boolean =>
      batch.length === FETCH_ITEMS_MAX || (bytes > 0 && bytes + next.size > FETCH_BYTES_MAX);
    const add = (wanted: Wanted): void => {
      if (wanted.state !== "waiting" || wanted.uses <= 0) return;
      wanted.state = "requested";
      this.#aheadBytes += wanted.chunk.size;
      bytes += wanted.chunk.size;
      batch.push(wanted);
    };
    for (let wanted = this.#urgent[0]; wanted !== undefined; wanted = this.#urgent[0]) {
      if (isFull(wanted.chunk)) return batch;
      add(wanted);
      this.#urgent.shift();
    }
    for (const plan of this.#plans) {
      for (let next = plan.peek(); next !== undefined; next = plan.peek()) {
        const ahead = this.#aheadBytes + next.chunk.size;
        if (isFull(next.chunk) || (this.#aheadBytes > 0 && ahead > this.#aheadBytesMax)) {
          return batch;
        }
        add(this.#want(next.chunk, next.uses));
        plan.advance();
      }
    }
    return batch;
  }

  async #request(batch: readonly Wanted[]): Promise<void> {
    const request: ChunkRequest = { abort: new AbortController(), outstanding: batch.length };
    for (const wanted of batch) wanted.request = request;
    const signal = AbortSignal.any([this.#abort.signal, request.abort.signal]);
    let index = 0;
    try {
      const chunks = batch.map(({ chunk }) => chunk);
      for await (const bytes of this.#transport.fetchChunks(chunks, { signal })) {
        const wanted = batch[index++];
        if (wanted === undefined) break;
        this.#settle(wanted, bytes);
      }
      if (index < batch.length) throw new CastoreError("UNAVAILABLE", "the answer ended early");
    } catch (cause) {
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

function createWanted(chunk: ChunkMeta): Wanted {
  let settle: (bytes: Uint8Array) => void = () => {};
  let fail: (error: unknown) => void = () => {};
  const bytes = new Promise<Uint8Array>((resolve, reject) => {
    settle = resolve;
    fail = reject;
  });
  // A failure nobody waits for any more is nobody's concern.
  bytes.catch(() => {});
  return { chunk, uses: 1, bytes, settle, fail, state: "waiting" };
}

class OpenPlan implements ChunkPlan {
  readonly #fetcher: ChunkFetcher;
  readonly #order: readonly ChunkMeta[];
  /** Takes left of each chunk that was handed to the fetcher or still will be. */
  readonly #uses = new Map<Digest, number>();
  readonly #admitted = new Set<Digest>();
  #position = 0;
  #closed = false;

  constructor(chunks: readonly ChunkMeta[], fetcher: ChunkFetcher) {
    this.#fetcher = fetcher;
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
    if (uses === 0) return this.#fetcher.take(chunk, false);
    this.#uses.set(chunk.digest, uses - 1);
    return this.#fetcher.take(chunk, this.#admitted.has(chunk.digest));
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

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
