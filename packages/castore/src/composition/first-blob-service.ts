import { CastoreError } from "../castore-error.ts";
import type { Digest } from "../model/digest.ts";
import type { BlobReader, BlobService } from "../services/blob-service.ts";
import { clipRange } from "../streams/byte-range.ts";
import { firstAnswer, rejectWrite } from "./first-of.ts";

/**
 * The blobs of several services: the first that has one serves it, and where it fails in the
 * middle the next goes on. One that fails is passed over. Only reads. All stay the caller's.
 */
export function createFirstBlobService(services: readonly BlobService[]): BlobService {
  return {
    async has(digest, options = {}) {
      const answer = await firstAnswer(services, options.signal, async (service) =>
        (await service.has(digest, options)) ? true : undefined,
      );
      return answer ?? false;
    },
    open: (digest, options = {}) =>
      firstAnswer([...services.keys()], options.signal, async (index) => {
        const reader = await services[index]?.open(digest, options);
        return reader && createRelayedReader(digest, reader, services.slice(index + 1));
      }),
    put: rejectWrite,
    chunks: (digest, options = {}) =>
      firstAnswer(services, options.signal, (service) => service.chunks(digest, options)),
  };
}

/** Reads `reader`, and where it fails goes on with the first of `others` that can. */
export function createRelayedReader(
  digest: Digest,
  reader: BlobReader,
  others: readonly BlobService[],
): BlobReader {
  let closed = false;
  const close = async (): Promise<void> => {
    closed = true;
    await reader.close();
  };
  return {
    size: reader.size,
    async *stream(start, end, options = {}) {
      const range = clipRange(reader.size, start, end);
      let at = range.start;
      const relay = async function* (source: BlobReader) {
        for await (const piece of source.stream(at, range.end, options)) {
          at += piece.byteLength;
          yield piece;
        }
      };
      let failure: CastoreError;
      try {
        return yield* relay(reader);
      } catch (error) {
        if (closed || !(error instanceof CastoreError)) throw error;
        failure = error;
      }
      for (const service of others) {
        const other = await service.open(digest, options).catch(() => undefined);
        options.signal?.throwIfAborted();
        if (other === undefined) continue;
        try {
          return yield* relay(other);
        } catch (error) {
          if (!(error instanceof CastoreError)) throw error;
        } finally {
          await other.close();
        }
      }
      throw failure;
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}
