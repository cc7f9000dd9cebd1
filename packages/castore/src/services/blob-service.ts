import type { Digest } from "../model/digest.ts";
import type { ByteSource, CallOptions } from "../streams/byte-source.ts";
import type { PiecePool } from "../streams/piece-pool.ts";

/** A piece of a blob, itself a blob. */
export interface ChunkMeta {
  readonly digest: Digest;
  readonly size: number;
}

export interface StreamOptions extends CallOptions {
  /** Where pieces may be taken from: who receives them may give them back. */
  readonly pool?: PiecePool | undefined;
}

/** An open blob. Positions and lengths are bytes. */
export interface BlobReader extends AsyncDisposable {
  readonly size: number;
  /** All of it, where it is in memory already; not to be changed. */
  readonly contents?: Uint8Array | undefined;
  /**
   * The bytes [start, end) in order, `end` defaulting to the size; both are clipped at it. Pieces
   * are 1 byte to 1 MiB and belong to the receiver. Several streams may run at once. Rejects
   * RangeError on a bound that is negative or no integer, CLOSED after close(). Rejects CORRUPT or
   * INCOMPLETE where the blob cannot be read whole; what was yielded before may be wrong only if
   * the service says it does not verify.
   */
  stream(start?: number, end?: number, options?: StreamOptions): AsyncIterable<Uint8Array>;
  /** Idempotent. */
  close(): Promise<void>;
}

/**
 * Stores byte strings under their BLAKE3 digest. Everything may be called concurrently.
 * Every implementation passes test/blob-service-suite.ts.
 */
export interface BlobService {
  /** Whether the blob is there. May be wrong only while it is put or collected. */
  has(digest: Digest, options?: CallOptions): Promise<boolean>;
  /** Opens the blob; undefined where it is absent. The caller closes the reader. */
  open(digest: Digest, options?: OpenBlobOptions): Promise<BlobReader | undefined>;
  /**
   * Stores the bytes of `source`, whose pieces it only reads. Resolves with their digest once they
   * are durable (as far as the implementation is) and visible. Idempotent. When it rejects, nothing
   * is visible.
   * With `expect`, rejects CORRUPT and stores nothing unless the digest is that one.
   */
  put(source: ByteSource, options?: PutBlobOptions): Promise<ChunkMeta>;
  /**
   * As a `put` of each of `blobs`, for who has many small ones: of a whole list at once. Resolves
   * with what each became; where it rejects, others may have been put. `putBlobs` does it for any
   * service.
   */
  putAll?(blobs: readonly Uint8Array[], options?: PutBlobsOptions): Promise<readonly ChunkMeta[]>;
  /**
   * The content-defined chunks of the blob in order; empty where it is one chunk or the
   * implementation does not chunk; undefined where the blob is absent.
   */
  chunks(digest: Digest, options?: CallOptions): Promise<readonly ChunkMeta[] | undefined>;
}

export interface OpenBlobOptions extends CallOptions {
  /** The size that a verified node gives the blob: what fetches needs to know how much to ask. */
  readonly size?: number | undefined;
  /** All of it will be read: who fetches need not do so by parts. */
  readonly whole?: boolean | undefined;
}

export interface PutBlobOptions extends CallOptions {
  readonly expect?: Digest | undefined;
  /**
   * Whether the caller has found that the bytes have the digest `expect`: a service that neither
   * chunks nor lasts need not find it once more.
   */
  readonly proven?: boolean | undefined;
  /**
   * Called with pieces of the source, in order, once their bytes are needed no more: for a source
   * that uses its memory again. Not of every piece, and not by every service.
   */
  readonly release?: ((piece: Uint8Array) => void) | undefined;
}

export interface PutBlobsOptions extends CallOptions {
  /** Called once the bytes are needed no more, and may change: before all is durable, at best. */
  readonly release?: (() => void) | undefined;
}
