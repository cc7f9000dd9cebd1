import { setMaxListeners } from "node:events";
import type { CallOptions } from "./byte-source.ts";
import { cancellable } from "./cancellable.ts";

/**
 * The results of `work` on each item, in order, with up to `limit` items under way ahead of the
 * consumer. After one failed no other is begun. When its turn has come, or the consumer stops, the
 * signal given to the others aborts, and the iteration ends only after they have settled.
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
  let failed = false;
  // One listener for all items: one for each costs more than a small item itself.
  let giveUp: ((reason: unknown) => void) | undefined;
  const abort = (): void => giveUp?.(signal.reason);
  signal.addEventListener("abort", abort);
  const untilAborted = (result: Promise<R>): Promise<R> =>
    new Promise((resolve, reject) => {
      giveUp = reject;
      if (signal.aborted) abort();
      result.then(resolve, reject);
    });
  try {
    for await (const item of cancellable(items, signal)) {
      const result = work(item, signal);
      // Awaited in its turn, so that of several failures the first item's is told.
      result.catch(() => {
        failed = true;
      });
      underWay.push(result);
      if (failed) break;
      if (underWay.length < limit) continue;
      const first = underWay.shift();
      if (first !== undefined) yield await untilAborted(first);
    }
    for (let first = underWay.shift(); first !== undefined; first = underWay.shift()) {
      yield await untilAborted(first);
    }
  } finally {
    signal.removeEventListener("abort", abort);
    stop.abort();
    await Promise.allSettled(underWay);
  }
}

/** Runs what it is given, `limit` at once at most, in the order of the calls. */
export function atMost(limit: number): <T>(work: () => Promise<T>) => Promise<T> {
  const waiting: (() => void)[] = [];
  let free = limit;
  return async (work) => {
    if (free > 0) free--;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = waiting.shift();
      if (next === undefined) free++;
      else next();
    }
  };
}
