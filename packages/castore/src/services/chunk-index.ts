import type { Digest } from "../model/digest.ts";
import type { CallOptions } from "../streams/byte-source.ts";

/**
 * Finds chunks of normal forms (docs/format.md) in what is at hand: local blobs, and seed files
 * that lie outside the store. Every byte handed out was checked against the chunk's digest.
 */
export interface ChunkIndex {
  /** Which of `digests` are probably there, in the same order; `get` may still miss. */
  has(digests: readonly Digest[], options?: CallOptions): Promise<readonly boolean[]>;
  /** The chunk's bytes, which become the caller's; undefined where it is absent or changed. */
  get(chunk: WantedChunk, options?: CallOptions): Promise<Uint8Array | undefined>;
}

/** A chunk by its digest; its size, where it is known, saves a look at what cannot be it. */
export interface WantedChunk {
  readonly digest: Digest;
  readonly size?: number | undefined;
}
