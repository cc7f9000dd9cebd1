import { ContentQueue } from "../nar/content-queue.ts";
import type { NarHash } from "../nix/nix-hash.ts";
import type { FoundNarInfo } from "../upstream/upstream-set.ts";
import { HOLD_BYTES_MAX } from "./nar-delivery.ts";
import { plainSizeOf } from "./plain-nar-source.ts";
import { TOGETHER_MS } from "./recent-paths.ts";

/** Bytes, as upstreams serve them, of NARs that were fetched early and not asked for yet. */
export const EARLY_NAR_BYTES_MAX = 64 * 1024 * 1024;
/** Bytes of NARs that are fetched and not stored yet: one of the largest and another beside it. */
export const EARLY_HELD_BYTES_MAX = 48 * 1024 * 1024;
/** Of a NAR that is too large to be held whole: how far it is fetched before it is asked for. */
export const EARLY_START_BYTES_MAX = 16 * 1024 * 1024;
/** How far it is ahead of the client that took it over. */
export const TAKEN_BYTES_MAX = 8 * 1024 * 1024;
/** NARs fetched early at once: the next one's round trip passes while one comes. */
export const EARLY_NARS_PARALLEL = 2;
/** Paths that are expected to be asked for, of all closures. */
const EXPECTED_MAX = 8_192;

export interface EarlyNarsOptions {
  /** The NAR, which is stored on its way; as for a client, but that none waits. */
  readonly deliver: (found: FoundNarInfo, signal: AbortSignal) => AsyncIterable<Uint8Array>;
  readonly isStored: (narHash: NarHash) => boolean;
  /** Resolves once what was delivered is stored, or cannot be. */
  readonly stored: (narHash: NarHash) => Promise<void>;
  /** What is likely to be asked for with the path, in that order. */
  readonly closureOf: (found: FoundNarInfo) => readonly FoundNarInfo[];
}

/** What is expected since a NAR of a closure was asked for. */
interface ExpectedClosure {
  readonly wanted: Map<NarHash, FoundNarInfo>;
  /** Fetched or being fetched, and not asked for: bytes as served. */
  readonly ahead: Map<NarHash, number>;
  readonly members: readonly NarHash[];
  timer: NodeJS.Timeout;
}

/**
 * Fetches the NARs of a closure, of which one was asked for, into the store, in whatever way they
 * come. An old Nix asks for one NAR at a time and leaves the link idle while it unpacks it. Nothing
 * starts while a client's own plain NAR is downloaded. What is under way is held in memory,
 * EARLY_HELD_BYTES_MAX at most, and is taken over by who asks for it; a NAR above HOLD_BYTES_MAX
 * waits for that after its first EARLY_START_BYTES_MAX. A closure of which nothing was asked for
 * during TOGETHER_MS is given up.
 */
export class EarlyNars implements Disposable {
  readonly #options: EarlyNarsOptions;
  readonly #closures = new Map<NarHash, ExpectedClosure>();
  readonly #underWay = new Map<NarHash, EarlyNar>();
  #downloads = 0;
  #isClosed = false;

  constructor(options: EarlyNarsOptions) {
    this.#options = options;
  }

  /**
   * A client's NAR is on its way: the rest of its closure is expected from now on. The result is to
   * be called once the link has room for others.
   */
  comes(found: FoundNarInfo): () => void {
    this.#downloads++;
    if (!this.#closures.has(found.narInfo.narHash)) this.#expect(found);
    return () => {
      this.#downloads--;
      this.#fill();
    };
  }

  /** A client gets the NAR from the store. */
  asked(narHash: NarHash): void {
    this.#note(narHash);
    this.#fill();
  }

  /**
   * A client asks for a NAR that is not in the store: what has come of it and what still comes,
   * until `signal` ends it. Undefined where it is not being fetched early.
   */
  take(narHash: NarHash, signal: AbortSignal): AsyncIterable<Uint8Array> | undefined {
    this.#note(narHash);
    const early = this.#underWay.get(narHash);
    if (early === undefined || early.isTaken) return undefined;
    early.take();
    const stop = () => early.abort.abort(signal.reason);
    signal.addEventListener("abort", stop, { once: true });
    if (signal.aborted) stop();
    this.#fill();
    return early.bytes.read();
  }

  [Symbol.dispose](): void {
    this.#isClosed = true;
    for (const closure of new Set(this.#closures.values())) this.#giveUp(closure);
    const reason = new Error("the bridge ends");
    for (const { abort } of this.#underWay.values()) abort.abort(reason);
  }

  #note(narHash: NarHash): void {
    const closure = this.#closures.get(narHash);
    closure?.timer.refresh();
    closure?.wanted.delete(narHash);
    closure?.ahead.delete(narHash);
  }

  #expect(found: FoundNarInfo): void {
    const members = this.#options.closureOf(found).filter(({ narInfo: { narHash } }) => {
      return !this.#closures.has(narHash);
    });
    if (members.length < 2 || this.#closures.size + members.length > EXPECTED_MAX) return;
    const wanted = new Map(members.map((member) => [member.narInfo.narHash, member]));
    const closure: ExpectedClosure = {
      ...{ wanted, ahead: new Map(), members: [...wanted.keys()] },
      timer: setTimeout(() => this.#giveUp(closure), TOGETHER_MS).unref(),
    };
    for (const narHash of closure.members) this.#closures.set(narHash, closure);
    wanted.delete(found.narInfo.narHash);
  }

  #giveUp({ timer, members }: ExpectedClosure): void {
    clearTimeout(timer);
    for (const narHash of members) {
      this.#closures.delete(narHash);
      const early = this.#underWay.get(narHash);
      if (early?.isTaken === false) early.abort.abort(new Error("nobody asked for it"));
    }
  }

  #fill(): void {
    if (this.#isClosed || this.#downloads > 0) return;
    for (const closure of new Set(this.#closures.values())) {
      for (const found of closure.wanted.values()) {
        const { narHash } = found.narInfo;
        if (!this.#underWay.has(narHash) && !this.#options.isStored(narHash)) {
          if (!this.#hasRoom(found)) return;
          closure.ahead.set(narHash, plainSizeOf(found.narInfo));
          void this.#fetch(found, closure);
        }
        closure.wanted.delete(narHash);
      }
    }
  }

  #hasRoom({ narInfo }: FoundNarInfo): boolean {
    let held = heldMax(narInfo.narSize, EARLY_START_BYTES_MAX);
    let coming = 0;
    for (const early of this.#underWay.values()) {
      held += early.heldMax;
      if (early.state === "coming") coming++;
    }
    if (coming >= EARLY_NARS_PARALLEL) return false;
    let ahead = plainSizeOf(narInfo);
    for (const closure of new Set(this.#closures.values())) {
      for (const bytes of closure.ahead.values()) ahead += bytes;
    }
    return held <= EARLY_HELD_BYTES_MAX && ahead <= EARLY_NAR_BYTES_MAX;
  }

  async #fetch(found: FoundNarInfo, closure: ExpectedClosure): Promise<void> {
    const { narHash, narSize } = found.narInfo;
    const early = new EarlyNar(narSize, () => this.#fill());
    this.#underWay.set(narHash, early);
    try {
      for await (const piece of this.#options.deliver(found, early.abort.signal)) {
        await early.add(piece);
      }
      early.end();
      await this.#options.stored(narHash);
    } catch (error) {
      // Told by whoever delivers. What failed for nobody is no reason to go on.
      early.bytes.fail(error);
      closure.wanted.clear();
      closure.ahead.delete(narHash);
    } finally {
      this.#underWay.delete(narHash);
      this.#fill();
    }
  }
}

/** A NAR that a client may take over until it is stored. */
class EarlyNar {
  readonly abort = new AbortController();
  readonly bytes: ContentQueue;
  /** full: it goes on once it is read. */
  state: "coming" | "full" | "whole" = "coming";
  readonly #size: number;
  readonly #onRoom: () => void;
  #queued = 0;
  #isTaken = false;
  #wake: () => void = () => {};

  /** `onRoom` is told when another NAR may come. */
  constructor(size: number, onRoom: () => void) {
    this.#size = size;
    this.#onRoom = onRoom;
    this.bytes = new ContentQueue((bytes) => {
      this.#queued -= bytes;
      this.#wake();
    });
    this.abort.signal.addEventListener("abort", () => this.#wake(), { once: true });
  }

  get isTaken(): boolean {
    return this.#isTaken;
  }

  /** Bytes that it may hold. */
  get heldMax(): number {
    return heldMax(this.#size, this.#isTaken ? TAKEN_BYTES_MAX : EARLY_START_BYTES_MAX);
  }

  take(): void {
    this.#isTaken = true;
    this.#wake();
  }

  /** Resolves once more may come. Rejects once it is given up. */
  async add(piece: Uint8Array): Promise<void> {
    this.bytes.push(piece);
    this.#queued += piece.byteLength;
    while (this.#queued > this.heldMax && !this.abort.signal.aborted) {
      this.state = "full";
      this.#onRoom();
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    this.abort.signal.throwIfAborted();
    this.state = "coming";
  }

  end(): void {
    this.bytes.end();
    this.state = "whole";
    this.#onRoom();
  }
}

/** Bytes held of a NAR: all of one that is passed on only once it is proven. */
function heldMax(narSize: number, startBytes: number): number {
  return narSize <= HOLD_BYTES_MAX ? narSize : startBytes;
}
