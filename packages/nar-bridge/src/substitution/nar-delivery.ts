import { createHash, type Hash } from "node:crypto";
import { CastoreError, cancellable, messageOf } from "@castore/castore";
import type { ContentCheck } from "../nar/content-check.ts";
import { type NarHash, narHashOf } from "../nix/nix-hash.ts";

/** A NAR not above this is held back until it is proven, unless that takes too long. */
export const HOLD_BYTES_MAX = 32 * 1024 * 1024;
/** Longest that a NAR is held back. */
export const HOLD_MS_MAX = 3_000;
/** Last bytes of a provisional NAR that stay here until its hash and size match. */
export const TAIL_BYTES = 64 * 1024;
/** Longest that a source may take for its next bytes before the next source is tried. */
export const SOURCE_STALL_MS_MAX = 30_000;

/** Bytes hashed before others get their turn: 2 ms. */
const HASHED_BYTES_MAX = 4 * 1024 * 1024;

/** Longest that the receiver waits for its next byte, whatever is tried meanwhile. */
export const CLIENT_WAIT_MS_MAX = 115_000;

/** What a NAR must turn out to be. */
export interface NarExpectation {
  readonly narHash: NarHash;
  /** Bytes. */
  readonly narSize: number;
  /** What else the contents must pass, anew for each source. */
  readonly contentCheck?: (() => ContentCheck) | undefined;
}

/** One way to the bytes of a NAR. */
export interface NarSource {
  /** For the log: which upstream, which way. */
  readonly name: string;
  /** The NAR from its first byte. Ends or rejects; `signal` frees everything at once. */
  open(signal: AbortSignal): AsyncIterable<Uint8Array>;
  /** Called once the bytes of this source, all of them, matched hash and size. */
  proven?(): void;
  /** Called when this source failed, or delivered bytes that are not the NAR's (`wrong`). */
  failed?(error: unknown, wrong: boolean): void;
}

export interface DeliveryLimits {
  readonly holdMs?: number | undefined;
  readonly stallMs?: number | undefined;
  readonly waitMs?: number | undefined;
}

export interface DeliveryOptions extends DeliveryLimits {
  readonly signal: AbortSignal;
  /** Bytes that may be held back for this NAR now; 0 to hold nothing but the tail. */
  readonly holdBytes: number;
}

/**
 * The NAR from the first source that gives it, going on with the next source at the byte reached
 * when one fails. Yields pieces that may leave the process: with `holdBytes` ≥ the size nothing
 * before the whole is proven or `holdMs` passed; never the last TAIL_BYTES before hash and
 * size match. Rejects CORRUPT or UNAVAILABLE when no source is left, or the receiver waits for too
 * long: it must then cut the connection. Opens a source only when the ones before it failed.
 */
export async function* deliverNar(
  expected: NarExpectation,
  sources: Iterable<NarSource> | AsyncIterable<NarSource>,
  options: DeliveryOptions,
): AsyncGenerator<Uint8Array, void, undefined> {
  const released = new ReleasedPrefix(options.waitMs ?? CLIENT_WAIT_MS_MAX);
  const held = new HeldBytes(expected.narSize, options);
  const reasons: string[] = [];
  let cause: unknown;
  for await (const source of sources) {
    const attempt = new AbortController();
    const stop = () => attempt.abort(options.signal.reason);
    if (options.signal.aborted) stop();
    options.signal.addEventListener("abort", stop, { once: true });
    try {
      held.restart();
      yield* attemptSource(source, expected, released, held, attempt.signal, options);
      source.proven?.();
      for (const piece of held.takeAll()) yield piece;
      return;
    } catch (error) {
      options.signal.throwIfAborted();
      source.failed?.(error, error instanceof WrongBytes);
      reasons.push(`${source.name}: ${messageOf(error)}`);
      cause = error;
      if (released.msLeft() <= 0) break;
    } finally {
      options.signal.removeEventListener("abort", stop);
      attempt.abort(new CastoreError("CLOSED", "this source is no longer needed"));
    }
  }
  const what = `NAR ${expected.narHash}: no source gave it after byte ${released.size}`;
  throw new CastoreError(
    cause instanceof WrongBytes ? "CORRUPT" : "UNAVAILABLE",
    reasons.length === 0 ? `${what} (no source known)` : `${what}: ${reasons.join("; ")}`,
    { cause },
  );
}

/** A source whose bytes are not those of the NAR, as opposed to one that merely broke off. */
class WrongBytes extends CastoreError {
  constructor(message: string) {
    super("CORRUPT", message);
  }
}

/** Bytes of the NAR that left the process so far. */
class ReleasedPrefix {
  readonly #hash: Hash = createHash("sha256");
  readonly #waitMs: number;
  #waitsSince = performance.now();
  size = 0;

  /** The receiver may wait for `waitMs` for its next byte. */
  constructor(waitMs: number) {
    this.#waitMs = waitMs;
  }

  add(piece: Uint8Array): void {
    this.#hash.update(piece);
    this.size += piece.byteLength;
  }

  /** The receiver took what was added, and waits for more. */
  taken(): void {
    this.#waitsSince = performance.now();
  }

  /** Milliseconds that the receiver may still wait. */
  msLeft(): number {
    return this.#waitsSince + this.#waitMs - performance.now();
  }

  /** The sha256 of what was released, and of `more` after it. */
  async sha256(more: readonly Uint8Array[] = []): Promise<Buffer> {
    const hash = this.#hash.copy();
    let hashed = 0;
    for (const piece of more) {
      hash.update(piece);
      hashed += piece.byteLength;
      if (hashed < HASHED_BYTES_MAX) continue;
      hashed = 0;
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
    return hash.digest();
  }
}

/** Bytes received from the present source that must not leave yet. */
class HeldBytes {
  readonly #holdMs: number;
  /** Whether everything is held back: until it is once released, however late. */
  #holdsAll: boolean;
  #deadline: number | undefined;
  #pieces: Uint8Array[] = [];
  #size = 0;

  constructor(size: number, options: DeliveryOptions) {
    this.#holdsAll = size <= Math.min(options.holdBytes, HOLD_BYTES_MAX);
    this.#holdMs = options.holdMs ?? HOLD_MS_MAX;
  }

  /** What did not leave. */
  get pieces(): readonly Uint8Array[] {
    return this.#pieces;
  }

  restart(): void {
    this.#pieces = [];
    this.#size = 0;
  }

  add(piece: Uint8Array): void {
    this.#deadline ??= performance.now() + this.#holdMs;
    this.#pieces.push(piece);
    this.#size += piece.byteLength;
  }

  /**
   * Milliseconds until what is held back is to be released although nothing is proven; undefined
   * where nothing is, or it was.
   */
  msUntilRelease(): number | undefined {
    if (!this.#holdsAll || this.#deadline === undefined) return undefined;
    return Math.max(0, this.#deadline - performance.now());
  }

  /** Takes what may leave now: everything but the tail, once the holding time is over. */
  takeReleasable(): Uint8Array[] {
    if (this.#holdsAll && (this.msUntilRelease() ?? 1) > 0) return [];
    this.#holdsAll = false;
    const taken: Uint8Array[] = [];
    for (;;) {
      const first = this.#pieces[0];
      if (first === undefined || this.#size <= TAIL_BYTES) return taken;
      const spare = this.#size - TAIL_BYTES;
      if (first.byteLength <= spare) {
        this.#pieces.shift();
        taken.push(first);
        this.#size -= first.byteLength;
      } else {
        this.#pieces[0] = first.subarray(spare);
        taken.push(first.subarray(0, spare));
        this.#size -= spare;
      }
    }
  }

  takeAll(): Uint8Array[] {
    const all = this.#pieces;
    this.restart();
    return all;
  }
}

/** Reads `source` to its end, yielding what may leave beyond what earlier sources released. */
async function* attemptSource(
  source: NarSource,
  expected: NarExpectation,
  released: ReleasedPrefix,
  held: HeldBytes,
  signal: AbortSignal,
  options: DeliveryOptions,
): AsyncGenerator<Uint8Array, void, undefined> {
  const prefix = createHash("sha256");
  const check = expected.contentCheck?.();
  let received = 0;
  let toSkip = released.size;
  const stallMs = options.stallMs ?? SOURCE_STALL_MS_MAX;
  const stallMsNow = () => Math.min(stallMs, released.msLeft());
  for await (const event of withDeadlines(
    cancellable(source.open(signal), signal),
    stallMsNow,
    held,
  )) {
    if (event !== "release") {
      received += event.byteLength;
      check?.update(event);
      if (received > expected.narSize) {
        throw new WrongBytes(`more than the ${expected.narSize} bytes expected`);
      }
      const fresh = await skipPrefix(event, toSkip, prefix, released);
      toSkip -= event.byteLength - fresh.byteLength;
      if (fresh.byteLength > 0) held.add(fresh);
    }
    for (const piece of held.takeReleasable()) {
      released.add(piece);
      yield piece;
      released.taken();
    }
  }
  if (received < expected.narSize) {
    throw new CastoreError("UNAVAILABLE", `ended at byte ${received} of ${expected.narSize}`);
  }
  // Each byte is hashed once: here, or when it left.
  const narHash = narHashOf(await released.sha256(held.pieces));
  if (narHash !== expected.narHash) throw new WrongBytes(`its hash is ${narHash}`);
  if (check?.matches() === false) throw new WrongBytes("its contents are not those of its CA");
}

/** The part of `piece` that no earlier source released; the part before is added to `prefix`. */
async function skipPrefix(
  piece: Uint8Array,
  toSkip: number,
  prefix: Hash,
  released: ReleasedPrefix,
): Promise<Uint8Array> {
  if (toSkip === 0) return piece;
  prefix.update(piece.subarray(0, toSkip));
  if (piece.byteLength < toSkip) return piece.subarray(piece.byteLength);
  if (!prefix.digest().equals(await released.sha256())) {
    throw new WrongBytes(`its first ${released.size} bytes differ from those already sent`);
  }
  return piece.subarray(toSkip);
}

/**
 * The pieces of `source`, and "release" when held bytes may leave. Rejects UNAVAILABLE when no
 * piece came within `stallMs()`. Time spent by the consumer does not count.
 */
async function* withDeadlines(
  source: AsyncIterable<Uint8Array>,
  stallMs: () => number,
  held: HeldBytes,
): AsyncGenerator<Uint8Array | "release", void, undefined> {
  const iterator = source[Symbol.asyncIterator]();
  let ended = false;
  try {
    for (;;) {
      const next = iterator.next();
      next.catch(() => {});
      const patienceMs = stallMs();
      const stalledAt = performance.now() + patienceMs;
      let result: IteratorResult<Uint8Array> | "timeout" = "timeout";
      while (result === "timeout") {
        const stallLeft = stalledAt - performance.now();
        if (stallLeft <= 0) throw new CastoreError("UNAVAILABLE", `no byte for ${patienceMs} ms`);
        const releaseIn = held.msUntilRelease();
        result = await within(next, Math.min(stallLeft, releaseIn ?? stallLeft));
        if (result === "timeout" && releaseIn !== undefined) yield "release";
      }
      if (result.done === true) {
        ended = true;
        return;
      }
      yield result.value;
    }
  } finally {
    // A source that hangs must not hold the next one up: its signal frees it.
    if (!ended) iterator.return?.().catch(() => {});
  }
}

async function within<T>(promise: Promise<T>, ms: number): Promise<T | "timeout"> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<"timeout">((resolve) => {
    timer = setTimeout(() => resolve("timeout"), ms);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}
