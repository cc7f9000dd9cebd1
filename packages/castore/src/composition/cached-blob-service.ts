import { isCastoreError } from "../castore-error.ts";
import type { Digest } from "../model/digest.ts";
import type { BlobService } from "../services/blob-service.ts";
import { chunkListOf, createChunkLists } from "../services/chunk-lists.ts";
import { SingleFlight } from "../services/single-flight.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import { type AbsencesOptions, createAbsences } from "./absences.ts";
import { createRelayedReader } from "./first-blob-service.ts";

/** What became of a blob that near did not have. */
type Fill = "absent" | "filled" | "refused";

/**
 * Blobs of `near`, and of `far` once they were copied to near: whole, verified, by one flight per
 * digest. Where near refuses (full, or read-only) or its copy is spoilt far is read directly. put()
 * goes to near alone. That far lacks a blob is believed for a second. Both stay the caller's.
 */
export function createCachedBlobService(
  near: BlobService,
  far: BlobService,
  options: AbsencesOptions = {},
): BlobService {
  const flights = new SingleFlight<Fill>();
  const absences = createAbsences(options);
  const lists = createChunkLists();
  const fill = async (digest: Digest, signal: AbortSignal): Promise<Fill> => {
    const reader = await far.open(digest, { signal });
    if (reader === undefined) {
      absences.add(digest);
      return "absent";
    }
    try {
      await near.put(reader.stream(0, undefined, { signal }), { expect: digest, signal });
      return "filled";
    } catch (error) {
      if (!isRefusal(error)) throw error;
      return "refused";
    } finally {
      await reader.close();
    }
  };
  /** What near has spoilt is as good as missing there; far has it still. */
  const openNear = async (digest: Digest, call: CallOptions) => {
    try {
      const reader = await near.open(digest, call);
      return reader && createRelayedReader(digest, reader, [far]);
    } catch (error) {
      if (isCastoreError(error, "CORRUPT") || isCastoreError(error, "INCOMPLETE")) return undefined;
      throw error;
    }
  };
  return {
    async has(digest, call = {}) {
      if (await near.has(digest, call)) return true;
      if (absences.has(digest)) return false;
      const there = await far.has(digest, call);
      if (!there) absences.add(digest);
      return there;
    },
    async open(digest, call = {}) {
      const held = await openNear(digest, call);
      if (held !== undefined || absences.has(digest)) return held;
      const outcome = await flights.run(digest, (signal) => fill(digest, signal), call);
      if (outcome === "absent") return undefined;
      const filled = outcome === "filled" ? await openNear(digest, call) : undefined;
      // Collected at once, or never stored.
      return filled ?? (await far.open(digest, call));
    },
    async put(source, call) {
      const put = await near.put(source, call);
      absences.delete(put.digest);
      return put;
    },
    async chunks(digest, call = {}) {
      const own = await near.chunks(digest, call);
      if (own !== undefined && own.length > 0) return own;
      const known = lists.get(digest);
      if (known !== undefined) return known.chunks;
      if (absences.has(digest)) return own;
      const chunks = await far.chunks(digest, call);
      if (chunks === undefined && own === undefined) absences.add(digest);
      if (chunks !== undefined && chunks.length > 0) lists.set(digest, chunkListOf(digest, chunks));
      return chunks ?? own;
    },
  };
}

/** Whether a cache says that it cannot take more; what it was to hold can be used all the same. */
export function isRefusal(error: unknown): boolean {
  return ["EXHAUSTED", "READ_ONLY", "UNSUPPORTED"].some(
    (code) => isCastoreError(error) && error.code === code,
  );
}
