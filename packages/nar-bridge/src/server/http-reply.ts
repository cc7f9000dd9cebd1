import type { ServerResponse } from "node:http";
import { CastoreError } from "@castore/castore";
import type { FastifyReply } from "fastify";

/** A signal that ends when the client of `reply` goes away before it got its whole answer. */
export function clientSignal(reply: FastifyReply): AbortSignal {
  const abort = new AbortController();
  const { raw } = reply;
  raw.once("close", () => {
    if (!raw.writableFinished) abort.abort(new CastoreError("CLOSED", "the client went away"));
  });
  return abort.signal;
}

/**
 * Answers with `status`, `headers` and the bytes of `source`, as fast as the client takes them. The
 * status goes out with the first piece: where the source rejects before it, this rejects and
 * nothing was sent. Later the connection is cut, so that nobody takes a part for the whole; that
 * rejects, too.
 */
export async function sendBytes(
  reply: FastifyReply,
  status: number,
  headers: Readonly<Record<string, string | number>>,
  source: AsyncIterable<Uint8Array>,
): Promise<void> {
  const iterator = source[Symbol.asyncIterator]();
  let next = await iterator.next();
  reply.hijack();
  const { raw } = reply;
  try {
    raw.writeHead(status, { ...reply.getHeaders(), ...headers } as Record<string, string>);
    while (next.done !== true) {
      if (!raw.write(next.value)) await drained(raw);
      next = await iterator.next();
    }
    raw.end();
  } catch (error) {
    raw.destroy();
    throw error;
  } finally {
    if (next.done !== true) await iterator.return?.();
  }
}

/** Plain listeners: an AbortController for each of these waits took 3 % of a bridge's time. */
function drained(raw: ServerResponse): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = (settle: () => void) => {
      raw.off("drain", onDrain);
      raw.off("close", onClose);
      settle();
    };
    const onDrain = () => end(resolve);
    const onClose = () => end(() => reject(new CastoreError("CLOSED", "the client went away")));
    raw.on("drain", onDrain);
    raw.on("close", onClose);
    if (raw.destroyed) onClose();
  });
}
