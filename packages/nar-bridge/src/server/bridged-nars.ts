import { CastoreError, isCastoreError, untilAborted } from "@castore/castore";
import type { FastifyReply, FastifyRequest } from "fastify";
import type { Log } from "../log.ts";
import { type BridgedNar, parseBridgedNarUrl } from "../nix/cache-url.ts";
import type { NarHash } from "../nix/nix-hash.ts";
import type { BridgeMetrics } from "../substitution/bridge-metrics.ts";
import { CLIENT_WAIT_MS_MAX } from "../substitution/nar-delivery.ts";
import type { Substituter } from "../substitution/substituter.ts";
import { clientSignal, sendBytes } from "./http-reply.ts";
import { NAR_TYPE, replyNar } from "./nar-reply.ts";

/** How long a client waits for another one that fetches the same NAR. */
const SHARED_WAIT_MS = 60_000;

export interface BridgedNarsOptions {
  readonly substituter: Substituter;
  readonly metrics: BridgeMetrics;
  readonly log: Log;
}

/**
 * The NARs of a bridge: proven ones from the local store, others from upstreams on their way there.
 * Clients that want the same NAR at once share one download.
 */
export class BridgedNars {
  readonly #options: BridgedNarsOptions;
  readonly #underWay = new Map<NarHash, Promise<void>>();

  constructor(options: BridgedNarsOptions) {
    this.#options = options;
  }

  /** Answers a GET or HEAD; 404 where no source gives it, as old clients take 5xx for the end. */
  async answer(request: FastifyRequest, reply: FastifyReply): Promise<void> {
    const { file } = request.params as { readonly file: string };
    const asked = parseBridgedNarUrl(`nar/${file}`);
    if (asked === undefined) return reply.callNotFound();
    const signal = clientSignal(reply);
    using _lease = this.#options.substituter.lease();
    try {
      await this.#answer(asked, request, reply, signal);
    } catch (error) {
      if (signal.aborted) return;
      const isTold = error instanceof CastoreError;
      this.#options.log(`nar/${file}: ${isTold ? error.message : stackOf(error)}`);
      if (!reply.raw.headersSent && !reply.sent) reply.callNotFound();
    }
  }

  async #answer(
    asked: BridgedNar,
    request: FastifyRequest,
    reply: FastifyReply,
    signal: AbortSignal,
  ): Promise<void> {
    const until = performance.now() + SHARED_WAIT_MS;
    for (;;) {
      if (await this.#answerProven(asked, request, reply, signal)) return;
      // Nothing is awaited from here to #share(): two clients must not both find nothing under way.
      const underWay = this.#underWay.get(asked.narHash);
      const waitMs = until - performance.now();
      if (request.method === "HEAD" || underWay === undefined || waitMs <= 0) break;
      await this.#untilServable(asked.narHash, underWay, { waitMs, signal });
    }
    const waitMs = CLIENT_WAIT_MS_MAX - (SHARED_WAIT_MS - Math.max(0, until - performance.now()));
    const sending = this.#answerProvisional(asked, request, reply, { signal, waitMs });
    if (request.method === "HEAD") await sending;
    else await this.#share(asked.narHash, sending);
  }

  async #answerProven(
    { storeHash, narHash }: BridgedNar,
    request: FastifyRequest,
    reply: FastifyReply,
    signal: AbortSignal,
  ): Promise<boolean> {
    const { substituter, metrics } = this.#options;
    const proven = await substituter.provenNar(narHash, { signal });
    if (proven === undefined) return false;
    if (request.method === "GET") {
      substituter.noteAsked(narHash);
      metrics.nars.inc({ way: "local" });
      metrics.narBytes.inc({ way: "local" }, proven.size);
    }
    try {
      await replyNar(request, reply, proven, { compress: false });
    } catch (error) {
      // Damaged, and nothing was sent yet: an upstream may have it.
      if (!isCastoreError(error, "CORRUPT") || reply.raw.headersSent) throw error;
      this.#options.log(`nar ${narHash}: ${error.message}`);
      return false;
    }
    if (request.method === "GET") await substituter.noteServed(storeHash, narHash);
    return true;
  }

  /** Without Accept-Ranges or ETag: Nix would resume onto a prefix that may be wrong. */
  async #answerProvisional(
    { storeHash, narHash }: BridgedNar,
    request: FastifyRequest,
    reply: FastifyReply,
    options: { readonly signal: AbortSignal; readonly waitMs: number },
  ): Promise<void> {
    const nar = await this.#options.substituter.openNar(storeHash, narHash, options);
    if (nar === undefined) return reply.callNotFound();
    const headers = { "content-type": NAR_TYPE, "content-length": nar.size };
    if (request.method === "HEAD") await reply.headers(headers).send();
    else await sendBytes(reply, 200, headers, nar.bytes);
  }

  /** Waits until the NAR is proven, or the client that it is fetched for has it or is gone. */
  async #untilServable(
    narHash: NarHash,
    underWay: Promise<void>,
    { waitMs, signal }: { readonly waitMs: number; readonly signal: AbortSignal },
  ): Promise<void> {
    const enough = new AbortController();
    const proven = this.#options.substituter.nextProven(narHash, { signal: enough.signal });
    try {
      await untilAborted(within(Promise.race([underWay, proven]), waitMs), signal);
    } finally {
      proven.catch(() => {});
      enough.abort();
    }
  }

  async #share(narHash: NarHash, sending: Promise<void>): Promise<void> {
    const ended = sending.catch(() => {});
    this.#underWay.set(narHash, ended);
    try {
      await sending;
    } finally {
      if (this.#underWay.get(narHash) === ended) this.#underWay.delete(narHash);
    }
  }
}

/** Resolves once `promise` does, or `ms` passed. */
async function within(promise: Promise<void>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([promise, timeout]);
  clearTimeout(timer);
}

function stackOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
