import { setTimeout } from "node:timers/promises";
import { type BlobReader, type BlobService, CastoreError, type Digest } from "@castore/castore";
import type { Log } from "@castore/nar-bridge";

/** A try that failed is followed by the next after so long, then twice as long each time. */
const PAUSE_MS = 250;
const PAUSE_MS_MAX = 5_000;

type Blobs = Pick<BlobService, "open">;

/**
 * `blobs`, of which nothing is given up: what cannot be had now is tried again until it comes, or
 * until the signal aborts. For those who can do nothing without, such as a machine whose system it
 * is. Opens blobs of known size only, without asking for them.
 */
export function patientBlobs(blobs: Blobs, log: Log): Blobs {
  return {
    async open(digest, { size, signal, whole } = {}) {
      if (size === undefined) return blobs.open(digest, { signal, whole });
      return patientReader(blobs, { digest, size, whole, log });
    },
  };
}

interface PatientBlob {
  readonly digest: Digest;
  readonly size: number;
  readonly whole: boolean | undefined;
  readonly log: Log;
}

function patientReader(blobs: Blobs, { digest, size, whole, log }: PatientBlob): BlobReader {
  const close = async (): Promise<void> => {};
  return {
    size,
    async *stream(start = 0, end = size, options = {}) {
      const { signal } = options;
      let at = start;
      for (let pauseMs = PAUSE_MS; at < end; pauseMs = Math.min(2 * pauseMs, PAUSE_MS_MAX)) {
        try {
          const reader = await blobs.open(digest, { size, signal, whole });
          if (reader === undefined) throw new CastoreError("INCOMPLETE", `blob ${digest}: absent`);
          await using _closed = reader;
          for await (const piece of reader.stream(at, end, options)) {
            at += piece.byteLength;
            pauseMs = PAUSE_MS;
            yield piece;
          }
          if (at < end) throw new CastoreError("CORRUPT", `blob ${digest}: ends at ${at}`);
        } catch (error) {
          signal?.throwIfAborted();
          if (pauseMs === PAUSE_MS)
            log(`blob ${digest}: ${String(error)}; tried again until it comes`);
          await setTimeout(pauseMs, undefined, { signal, ref: false });
        }
      }
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}
