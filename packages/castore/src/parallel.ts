import { setMaxListeners } from "node:events";
import type { CallOptions } from "./blob-service.ts";
import { cancellable, untilAborted } from "./cancellable.ts";

/**
 * The results of `work` on each item, in order, with up to `limit` items under way ahead of the
 * consumer. When one fails, or the consumer stops, the signal given to the others aborts, and the
 * iteration ends only after they have settled.
 */
export async function* inParallel<T, R>(
  items: AsyncIterable<T> | Iterable<T>,
  limit: number,
  work: (item: T, signal: AbortSignal) => Promise<R>,
  options: CallOptions = {},
): AsyncGenerator<R, void, undefined> {
  const stop = new AbortController();
  const signal = options.signal ? AbortSignal.any([stop.signal, options.signal]) : stop.signal;
  // All that are under way may listen.
  setMaxListeners(0, signal);
  const underWay: Promise<R>[] = [];
  try {
    for await (const item of cancellable(items, signal)) {
      const result = work(item, signal);
      // It is awaited in its turn; until then its failure is not unhandled.
      result.catch(() => {});
      underWay.push(result);
      if (underWay.length < limit) continue;
      const first = underWay.shift();
      if (first !== undefined) yield await untilAborted(first, signal);
    }
    for (let first = underWay.shift(); first !== undefined; first = underWay.shift()) {
      yield await untilAborted(first, signal);
    }
  } finally {
    stop.abort();
    await Promise.allSettled(underWay);
  }
}

/** Runs what it is given, in order, with at most `limit` under way; the others wait. */
export type Gate = <R>(work: () => Promise<R>) => Promise<R>;

export function createGate(limit: number): Gate {
  const waiting: (() => void)[] = [];
  let underWay = 0;
  return async (work) => {
    if (underWay >= limit) await new Promise<void>((resolve) => waiting.push(resolve));
    else underWay++;
    try {
      return await work();
    } finally {
      const next = waiting.shift();
      // The place is handed on, so that nobody comes in between.
      if (next === undefined) underWay--;
      else next();
    }
  };
}
