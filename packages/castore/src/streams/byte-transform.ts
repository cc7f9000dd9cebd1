import type { Duplex } from "node:stream";
import type { ByteSource } from "./byte-source.ts";

/** Turns one stream of bytes into another, lazily and with backpressure. */
export type ByteTransform = (source: ByteSource) => AsyncIterable<Uint8Array>;

/**
 * The output of `duplex` fed from `source`. Takes the duplex over and destroys it when the
 * consumer stops. What `source` throws arrives as it is; what the duplex throws, as `faultOf` it.
 */
export async function* throughDuplex(
  source: ByteSource,
  duplex: Duplex,
  faultOf: (cause: unknown) => unknown,
): AsyncGenerator<Uint8Array, void, undefined> {
  const stop = new AbortController();
  let sourceFault: { readonly cause: unknown } | undefined;
  // The loop below takes what the duplex throws; after it nobody asks any more.
  duplex.on("error", () => undefined);
  const fed = feed(source, duplex, stop.signal).catch((cause: unknown) => {
    sourceFault = { cause };
    duplex.destroy(cause instanceof Error ? cause : undefined);
  });
  try {
    for await (const piece of duplex) yield piece;
    await fed;
  } catch (cause) {
    throw sourceFault === undefined ? faultOf(cause) : sourceFault.cause;
  } finally {
    stop.abort();
    duplex.destroy();
  }
  if (sourceFault !== undefined) throw sourceFault.cause;
}

/**
 * stream.pipeline() would do, but does not return for all of lzma-native's streams. It ends the
 * duplex only when that has taken the last piece: what zlib writes at the end would else depend on
 * which came first.
 */
async function feed(source: ByteSource, duplex: Duplex, stopped: AbortSignal): Promise<void> {
  let untaken = 0;
  for await (const piece of source) {
    if (duplex.destroyed) return;
    untaken++;
    const taken = () => {
      if (--untaken === 0) duplex.emit(TAKEN);
    };
    if (!duplex.write(piece, taken)) await untilEvent(duplex, "drain", stopped);
  }
  if (untaken > 0 && !duplex.destroyed) await untilEvent(duplex, TAKEN, stopped);
  if (!duplex.destroyed) duplex.end();
}

const TAKEN = Symbol("taken");

/** Resolves also when the duplex closes or nobody listens any more. */
function untilEvent(duplex: Duplex, event: string | symbol, stopped: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      duplex.off(event, done);
      duplex.off("close", done);
      stopped.removeEventListener("abort", done);
      resolve();
    };
    duplex.on(event, done);
    duplex.on("close", done);
    stopped.addEventListener("abort", done);
  });
}
