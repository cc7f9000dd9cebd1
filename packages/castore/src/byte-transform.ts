import type { Duplex } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { ByteSource } from "./blob-service.ts";

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
  let sourceFault: { readonly cause: unknown } | undefined;
  async function* noted(): AsyncGenerator<Uint8Array, void, undefined> {
    try {
      yield* source;
    } catch (cause) {
      sourceFault = { cause };
      throw cause;
    }
  }
  const pumped = pipeline(noted(), duplex);
  // Whatever fails also destroys the duplex, and thereby ends the loop below.
  pumped.catch(() => undefined);
  try {
    for await (const piece of duplex) yield piece;
    await pumped;
  } catch (cause) {
    throw sourceFault?.cause === cause ? cause : faultOf(cause);
  } finally {
    duplex.destroy();
  }
}
