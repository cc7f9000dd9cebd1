import {
  type CallOptions,
  CastoreError,
  isCastoreError,
  messageOf,
  untilAborted,
} from "@castore/castore";
import { LRUCache } from "lru-cache";
import { parseCompression } from "../compression/compression.ts";
import type { NarInfo } from "../nix/nar-info.ts";
import { parseNarInfo } from "../nix/nar-info-text.ts";
import { NIX_STORE_DIR, type StoreDir, type StoreHash, storePathHash } from "../nix/store-path.ts";
import { type Clock, SYSTEM_CLOCK } from "./clock.ts";
import type { HttpResponse } from "./http-response.ts";
import { SharedFlights } from "./shared-flights.ts";
import { LOOKUP_TIMEOUT_MS, type Upstream, type UpstreamGetOptions } from "./upstream.ts";
import { type Attempt, type RestEvent, UpstreamRest } from "./upstream-rest.ts";

/** The next upstream is asked when the ones before gave no answer for so long. */
export const HEDGE_MS = 1_000;
/** Longest that a lookup takes, over all upstreams. */
export const LOOKUP_MS_MAX = 5_000;
/** An upstream that failed is asked once more, after this, before it rests. */
export const SECOND_TRY_MS = 200;
/** Narinfos that are remembered. Misses never are. */
export const NAR_INFOS_MAX = 1_024;
export const NAR_INFO_TTL_MS = 60_000;
/** What Nix takes a cache's priority for where nothing says it. */
export const PRIORITY_DEFAULT = 50;

/** A narinfo that was accepted, and the upstream that gave it. */
export interface FoundNarInfo {
  readonly narInfo: NarInfo;
  readonly upstream: Upstream;
}

export interface NarInfoLookup {
  readonly found: FoundNarInfo | undefined;
  /** Why each upstream that was asked has no part in `found`, for the log. */
  readonly reasons: readonly string[];
}

export interface UpstreamSetOptions {
  /** In the order given by the user; priorities go before it. */
  readonly upstreams: readonly Upstream[];
  /** True, or why this narinfo does not count: no trusted signature. */
  readonly accept: (narInfo: NarInfo, upstream: Upstream) => true | string;
  readonly storeDir?: StoreDir | undefined;
  /** Told when an upstream begins to rest and when it answers again. */
  readonly onRest?: ((upstream: Upstream, event: RestEvent) => void) | undefined;
  readonly clock?: Clock | undefined;
  readonly hedgeMs?: number | undefined;
  readonly lookupMsMax?: number | undefined;
  readonly restMs?: number | undefined;
  readonly restMsMax?: number | undefined;
}

export interface ElsewhereOptions extends CallOptions {
  readonly except: ReadonlySet<unknown>;
}

/** Several binary caches as one, asked in the order of their priority (the lower, the sooner). */
export interface UpstreamSet {
  readonly upstreams: readonly Upstream[];
  /**
   * The narinfo of the first upstream that has an acceptable one. The next is asked once the ones
   * before missed, or gave no answer for HEDGE_MS; of answers that are there, the first in order
   * counts. Upstreams that rest are passed over. Never rejects for an upstream's sake, and resolves
   * within LOOKUP_MS_MAX. One flight per hash; ends when all callers aborted.
   */
  findNarInfo(storeHash: StoreHash, options?: CallOptions): Promise<NarInfoLookup>;
  /** The same without the upstreams in `except`, never from memory. */
  findNarInfoElsewhere(
    storeHash: StoreHash,
    options: ElsewhereOptions,
  ): Promise<FoundNarInfo | undefined>;
  /**
   * `path` from the first upstream that has it, asked one after the other; undefined where none
   * has. The caller reads or discards the body.
   */
  firstAnswer(path: string, options?: UpstreamGetOptions): Promise<HttpResponse | undefined>;
}

export function createUpstreamSet(options: UpstreamSetOptions): UpstreamSet {
  return new PrioritizedUpstreams(options);
}

/** An upstream, its rest, and its priority as far as it is known. */
interface Member {
  readonly upstream: Upstream;
  readonly rest: UpstreamRest;
  priority: number | undefined;
  /** A nix-cache-info on its way. */
  greeting: Promise<void> | undefined;
}

class PrioritizedUpstreams implements UpstreamSet {
  readonly upstreams: readonly Upstream[];
  readonly #options: UpstreamSetOptions;
  readonly #clock: Clock;
  readonly #members: readonly Member[];
  readonly #flights = new SharedFlights<StoreHash, NarInfoLookup>();
  readonly #found: LRUCache<StoreHash, NarInfoLookup>;

  constructor(options: UpstreamSetOptions) {
    this.#options = options;
    const clock = options.clock ?? SYSTEM_CLOCK;
    this.#clock = clock;
    this.upstreams = options.upstreams;
    this.#found = new LRUCache({
      ...{ max: NAR_INFOS_MAX, ttl: NAR_INFO_TTL_MS, ttlResolution: 0, perf: clock },
    });
    this.#members = options.upstreams.map((upstream) => {
      const { restMs, restMsMax, onRest } = options;
      const onChange = onRest && ((event: RestEvent) => onRest(upstream, event));
      const rest = new UpstreamRest({ clock, restMs, restMsMax, onChange });
      return { upstream, rest, priority: upstream.priority, greeting: undefined };
    });
  }

  async findNarInfo(storeHash: StoreHash, options: CallOptions = {}): Promise<NarInfoLookup> {
    const known = this.#found.get(storeHash);
    if (known !== undefined) return known;
    return await this.#flights.join(storeHash, options, async (signal) => {
      const lookup = await this.#search(storeHash, { except: new Set(), signal });
      if (lookup.found !== undefined) this.#found.set(storeHash, lookup);
      return lookup;
    });
  }

  async findNarInfoElsewhere(
    storeHash: StoreHash,
    { except, signal = new AbortController().signal }: ElsewhereOptions,
  ): Promise<FoundNarInfo | undefined> {
    return (await this.#search(storeHash, { except, signal })).found;
  }

  async firstAnswer(
    path: string,
    options: UpstreamGetOptions = {},
  ): Promise<HttpResponse | undefined> {
    const signal = options.signal ?? new AbortController().signal;
    for (const { upstream, rest } of await this.#inOrder(signal)) {
      const attempt = rest.attempt();
      if (attempt === undefined) continue;
      try {
        const answer = await upstream.get(path, options);
        attempt.succeeded();
        if (answer !== undefined) return answer;
      } catch (error) {
        signal.throwIfAborted();
        settle(attempt, error);
      } finally {
        attempt.cancelled();
      }
    }
    return undefined;
  }

  /** All members, by priority. Waits a moment for priorities that are not known yet. */
  async #inOrder(signal: AbortSignal): Promise<Member[]> {
    const unknown = this.#members.filter(({ priority }) => priority === undefined);
    if (this.#members.length > 1 && unknown.length > 0) {
      const timer = new AbortController();
      const { hedgeMs = HEDGE_MS } = this.#options;
      const patience = this.#clock.wait(hedgeMs, { signal: timer.signal }).catch(() => {});
      const greetings = Promise.all(unknown.map((member) => this.#greet(member)));
      await untilAborted(Promise.race([greetings, patience]), signal);
      timer.abort();
    }
    const rank = ({ priority = PRIORITY_DEFAULT }: Member) => priority;
    return [...this.#members].sort((a, b) => rank(a) - rank(b));
  }

  /** Asks for the priority; a failure leaves it unknown, and the upstream at rest. */
  async #greet(member: Member): Promise<void> {
    if (member.greeting !== undefined) return await member.greeting;
    const attempt = member.rest.attempt();
    if (attempt === undefined) return;
    const signal = new AbortController().signal; // of nobody: all who wait share the answer
    const greeting = this.#twice(signal, () => member.upstream.cacheInfo()).then(
      ({ priority = PRIORITY_DEFAULT }) => {
        attempt.succeeded();
        member.priority = priority;
      },
      (error: unknown) => {
        settle(attempt, error);
        // It answers, if nonsense: its narinfos are judged by themselves.
        if (!isFault(error)) member.priority = PRIORITY_DEFAULT;
      },
    );
    member.greeting = greeting.finally(() => {
      member.greeting = undefined;
    });
    await member.greeting;
  }

  async #search(
    storeHash: StoreHash,
    { except, signal }: { except: ReadonlySet<unknown>; signal: AbortSignal },
  ): Promise<NarInfoLookup> {
    const { hedgeMs = HEDGE_MS, lookupMsMax = LOOKUP_MS_MAX } = this.#options;
    const end = this.#clock.now() + lookupMsMax;
    const members = (await this.#inOrder(signal)).filter(({ upstream }) => !except.has(upstream));
    const answers = members.map((): NarInfo | string | undefined => undefined);
    const timers = new AbortController();
    const after = (ms: number, action: () => void) =>
      void this.#clock.wait(ms, { signal: timers.signal }).then(action, () => {});
    const outcome = new Promise<NarInfoLookup>((resolve) => {
      const finish = () => resolve(lookupOf(members, answers));
      const askFrom = (index: number) => {
        const member = members[index];
        if (member === undefined) return;
        let isNextAsked = false;
        const askNext = () => {
          if (!isNextAsked && !timers.signal.aborted) askFrom(index + 1);
          isNextAsked = true;
        };
        after(hedgeMs, askNext);
        void this.#ask(storeHash, member, signal).then((answer) => {
          answers[index] = answer;
          // An answer of one before it may have arrived together with this one.
          if (typeof answer !== "string") setImmediate(finish);
          else if (answers.includes(undefined)) askNext();
          else finish();
        });
      };
      after(end - this.#clock.now(), finish);
      if (members.length === 0) finish();
      askFrom(0);
    });
    return await untilAborted(outcome, signal).finally(() => timers.abort());
  }

  /** The upstream's narinfo, or why it has none that counts. Bounded in time; never rejects. */
  async #ask(
    storeHash: StoreHash,
    { upstream, rest }: Member,
    signal: AbortSignal,
  ): Promise<NarInfo | string> {
    const attempt = rest.attempt();
    if (attempt === undefined) return `rests (${rest.reason})`;
    const timeout = new AbortController();
    const answered = new AbortController();
    void this.#clock.wait(LOOKUP_TIMEOUT_MS, { signal: answered.signal }).then(
      () => timeout.abort(lookupTimeout(upstream)),
      () => {},
    );
    try {
      const limited = AbortSignal.any([signal, timeout.signal]);
      const text = await this.#twice(limited, () =>
        upstream.narInfoText(storeHash, { signal: limited }),
      );
      attempt.succeeded();
      return text === undefined ? "absent" : this.#judge(storeHash, text, upstream);
    } catch (error) {
      return signal.aborted ? "given up" : settle(attempt, error);
    } finally {
      answered.abort();
      attempt.cancelled();
    }
  }

  /** A moment's fault of one server among many must not keep a cache from everybody. */
  async #twice<T>(signal: AbortSignal, ask: () => Promise<T>): Promise<T> {
    try {
      return await ask();
    } catch (error) {
      if (signal.aborted || !isFault(error)) throw error;
      await this.#clock.wait(SECOND_TRY_MS, { signal });
      return await ask();
    }
  }

  #judge(storeHash: StoreHash, text: string, upstream: Upstream): NarInfo | string {
    try {
      const narInfo = parseNarInfo(text, this.#options.storeDir ?? NIX_STORE_DIR);
      if (storePathHash(narInfo.storePath) !== storeHash) {
        return `answered with the narinfo of ${narInfo.storePath}`;
      }
      if (parseCompression(narInfo.compression) === undefined) {
        return `unknown compression ${narInfo.compression}`;
      }
      const verdict = this.#options.accept(narInfo, upstream);
      return verdict === true ? narInfo : verdict;
    } catch (error) {
      return messageOf(error);
    }
  }
}

function lookupOf(
  members: readonly Member[],
  answers: readonly (NarInfo | string | undefined)[],
): NarInfoLookup {
  const reasons: string[] = [];
  for (const [index, { upstream }] of members.entries()) {
    const answer = answers[index];
    if (typeof answer === "object") return { found: { narInfo: answer, upstream }, reasons };
    reasons.push(`${upstream.url.href}: ${answer ?? "no answer in time"}`);
  }
  return { found: undefined, reasons };
}

function lookupTimeout({ url }: Upstream): CastoreError {
  return new CastoreError("UNAVAILABLE", `${url.href}: no answer in ${LOOKUP_TIMEOUT_MS / 1000} s`);
}

/** Tells `attempt` what the failure means for the upstream, and the failure's message. */
function settle(attempt: Attempt, error: unknown): string {
  const message = messageOf(error);
  if (isFault(error)) attempt.failed(message);
  else if (!isOwnLimit(error)) attempt.succeeded(); // it answered, if not to our liking
  return message;
}

function isFault(error: unknown): boolean {
  return isCastoreError(error, "UNAVAILABLE");
}

function isOwnLimit(error: unknown): boolean {
  return isCastoreError(error, "EXHAUSTED") || isCastoreError(error, "CLOSED");
}
