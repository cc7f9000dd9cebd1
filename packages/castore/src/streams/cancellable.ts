/**
 * The items of `source`, ending with the signal's reason as soon as it aborts, even while the
 * source is silent. The source is closed whenever the iteration ends early.
 */
export async function* cancellable<T>(
  source: AsyncIterable<T> | Iterable<T>,
  signal: AbortSignal | undefined,
): AsyncGenerator<T, void, undefined> {
  if (signal === undefined) {
    yield* source;
    return;
  }
  signal.throwIfAborted();
  if (Symbol.iterator in source) {
    for (const item of source) {
      yield item;
      signal.throwIfAborted();
    }
    return;
  }
  const iterator = source[Symbol.asyncIterator]();
  let open = true;
  try {
    while (true) {
      const result = await untilAborted(iterator.next(), signal);
      if (result.done === true) {
        open = false;
        return;
      }
      yield result.value;
      signal.throwIfAborted();
    }
  } finally {
    // Not awaited once aborted: a generator that waits would keep its return() waiting too.
    const returned = open ? iterator.return?.() : undefined;
    if (signal.aborted) returned?.catch(() => {});
    else await returned;
  }
}

/** `promise`, or a rejection with the signal's reason, whichever comes first. */
export function untilAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}
