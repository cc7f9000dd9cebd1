import { LRUCache } from "lru-cache";
import { CastoreError } from "../castore-error.ts";
import type { Digest } from "../model/digest.ts";
import type { ChunkMeta } from "./blob-service.ts";

/** Most bytes in a chunk: twice the largest average that FastCDC allows. */
export const CHUNK_BYTES_MAX = 4 << 20;

/** Most chunks that a ChunkLists remembers, over all lists: about 40 MB. */
const CHUNKS_MAX = 200_000;

/** What a remote store says of which chunks a blob is made. */
export interface ChunkList {
  readonly chunks: readonly ChunkMeta[];
  /** Bytes in all chunks. */
  readonly size: number;
  /** Whether the chunks together were once seen to have the blob's digest. */
  proven: boolean;
}

/** The chunk list of `blob` as it came from outside. Rejects CORRUPT for what no store writes. */
export function chunkListOf(blob: Digest, chunks: readonly ChunkMeta[]): ChunkList {
  let size = 0;
  for (const chunk of chunks) {
    size += chunk.size;
    if (chunk.size === 0 || chunk.size > CHUNK_BYTES_MAX || !Number.isSafeInteger(size)) {
      const message = `blob ${blob}: chunk ${chunk.digest} of ${chunk.size} bytes in its list`;
      throw new CastoreError("CORRUPT", message);
    }
  }
  return { chunks, size, proven: false };
}

/** Remembers chunk lists, which never change, up to a number of chunks in all. */
export interface ChunkLists {
  get(blob: Digest): ChunkList | undefined;
  set(blob: Digest, list: ChunkList): void;
  delete(blob: Digest): void;
}

export function createChunkLists(chunksMax = CHUNKS_MAX): ChunkLists {
  return new LRUCache<Digest, ChunkList>({
    maxSize: chunksMax,
    sizeCalculation: ({ chunks }) => chunks.length + 1,
  });
}
