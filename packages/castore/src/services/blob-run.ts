import type { CallOptions } from "../streams/byte-source.ts";
import { type PiecePool, POOLED_PIECE_BYTES } from "../streams/piece-pool.ts";
import type { BlobService, ChunkMeta } from "./blob-service.ts";
import { putBlobs } from "./put-blobs.ts";

/** Bytes of a blob in a run, at most. */
export const RUN_BLOB_BYTES_MAX = POOLED_PIECE_BYTES / 2;
const RUN_BLOBS_MAX = 128;

/** Small blobs that are put together, in memory that is used again. */
export class BlobRun {
  readonly #pool: PiecePool;
  readonly #memory: Buffer;
  readonly #blobs: Uint8Array[] = [];
  #bytes = 0;

  constructor(pool: PiecePool) {
    this.#pool = pool;
    this.#memory = pool.take(POOLED_PIECE_BYTES);
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Whether it takes no more. */
  get isFull(): boolean {
    const room = this.#memory.byteLength - this.#bytes;
    return room < RUN_BLOB_BYTES_MAX || this.#blobs.length === RUN_BLOBS_MAX;
  }

  /** Adds a blob of `size` bytes, RUN_BLOB_BYTES_MAX at most, which the caller fills. */
  add(size: number): Uint8Array {
    const blob = this.#memory.subarray(this.#bytes, this.#bytes + size);
    this.#bytes += size;
    this.#blobs.push(blob);
    return blob;
  }

  /**
   * Puts all of them, as `putBlobs`. Their memory is used again once the service needs it no more
   * and `inUse` has resolved. Call it once.
   */
  put(
    service: BlobService,
    inUse: Promise<void>,
    options: CallOptions = {},
  ): Promise<readonly ChunkMeta[]> {
    const give = (): void => this.#pool.give(this.#memory);
    const release = (): void => void inUse.then(give, () => {});
    return putBlobs(service, this.#blobs, { ...options, release });
  }
}
