import { closeSync, mkdirSync, openSync, renameSync, rmSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { CastoreError } from "../castore-error.ts";
import { readRange } from "../files/read-range.ts";
import { createDigestHasher, type Digest } from "../model/digest.ts";
import type {
  BlobReader,
  BlobService,
  ChunkMeta,
  OpenBlobOptions,
  PutBlobOptions,
} from "../services/blob-service.ts";
import type { ChunkIndex, WantedChunk } from "../services/chunk-index.ts";
import type { DirectContentModule } from "../services/direct-content.ts";
import { clipRange } from "../streams/byte-range.ts";
import type { ByteSource, CallOptions } from "../streams/byte-source.ts";
import { cancellable } from "../streams/cancellable.ts";

const PIECE_BYTES_MAX = 1 << 20;
/** A file takes a multiple of this. */
const PAGE_BYTES = 4096;

export interface RecentBlobsOptions {
  /** A directory of its own on a file system in memory: what is in it is deleted. */
  readonly path: string;
  /** Most bytes of its files, those that are being written included. */
  readonly sizeMax: number;
}

interface KeptBlob {
  readonly size: number;
  /** When it was used, as far as that is known. */
  usedMs: number;
}

/**
 * Blobs that came lately, as files: the least recently used go where room is needed. Nothing is for
 * the next process, so nothing is flushed, and files are read and written at once, as memory is.
 * Where the file system notes each access (strictatime), reads by others count as well. Does not
 * chunk; each blob is a chunk.
 */
export class RecentBlobs implements BlobService {
  readonly #path: string;
  readonly #sizeMax: number;
  /** In order of use. */
  readonly #kept = new Map<Digest, KeptBlob>();
  #size = 0;
  #count = 0;

  constructor({ path, sizeMax }: RecentBlobsOptions) {
    this.#path = path;
    this.#sizeMax = sizeMax;
    rmSync(path, { recursive: true, force: true });
    mkdirSync(path, { recursive: true, mode: 0o700 });
  }

  /** Bytes of all files. */
  get size(): number {
    return this.#size;
  }

  /** How another thread reads them. */
  get content(): DirectContentModule {
    const { href } = new URL("./recent-direct-content.js", import.meta.url);
    return { module: href, argument: this.#path };
  }

  /** The blobs, as chunks. */
  get index(): ChunkIndex {
    return {
      has: async (digests, { signal } = {}) => {
        signal?.throwIfAborted();
        return digests.map((digest) => this.#kept.has(digest));
      },
      get: async (chunk, { signal } = {}) => {
        signal?.throwIfAborted();
        return this.#readChunk(chunk);
      },
    };
  }

  async has(digest: Digest, { signal }: CallOptions = {}): Promise<boolean> {
    signal?.throwIfAborted();
    return this.#kept.has(digest);
  }

  async open(digest: Digest, { signal }: OpenBlobOptions = {}): Promise<BlobReader | undefined> {
    signal?.throwIfAborted();
    const kept = this.#use(digest);
    return kept && fileReader(digest, openSync(this.#fileOf(digest), "r"), kept.size);
  }

  async put(source: ByteSource, options: PutBlobOptions = {}): Promise<ChunkMeta> {
    const { expect, proven, signal } = options;
    const unfinished = join(this.#path, `unfinished-${++this.#count}`);
    const file = openSync(unfinished, "wx", 0o400);
    const known = proven === true ? expect : undefined;
    const hasher = createDigestHasher();
    let size = 0;
    try {
      for await (const piece of cancellable(source, signal)) {
        this.#makeRoom(bytesOf(size + piece.byteLength) - bytesOf(size));
        size += piece.byteLength;
        if (known === undefined) hasher.update(piece);
        for (let at = 0; at < piece.byteLength; ) at += writeSync(file, piece, at);
      }
      const digest = known ?? hasher.digest();
      if (expect !== undefined && digest !== expect) {
        throw new CastoreError("CORRUPT", `blob ${expect}: the bytes have digest ${digest}`);
      }
      renameSync(unfinished, this.#fileOf(digest));
      this.#forget(digest);
      this.#kept.set(digest, { size, usedMs: nowMs() });
      return { digest, size };
    } catch (error) {
      rmSync(unfinished, { force: true });
      this.#size -= bytesOf(size);
      throw error;
    } finally {
      closeSync(file);
    }
  }

  async chunks(digest: Digest, { signal }: CallOptions = {}): Promise<ChunkMeta[] | undefined> {
    signal?.throwIfAborted();
    return this.#kept.has(digest) ? [] : undefined;
  }

  #readChunk({ digest, size }: WantedChunk): Uint8Array | undefined {
    const kept = this.#use(digest);
    if (kept === undefined || (size !== undefined && size !== kept.size)) return undefined;
    const file = openSync(this.#fileOf(digest), "r");
    try {
      return readPart(digest, file, { start: 0, end: kept.size });
    } finally {
      closeSync(file);
    }
  }

  #use(digest: Digest): KeptBlob | undefined {
    const kept = this.#kept.get(digest);
    if (kept === undefined) return undefined;
    kept.usedMs = nowMs();
    this.#kept.delete(digest);
    this.#kept.set(digest, kept);
    return kept;
  }

  /** Takes `bytes` of the room, from blobs that were not used for long if need be. */
  #makeRoom(bytes: number): void {
    // Each is looked at once more where others have read it since.
    for (const [digest, kept] of this.#kept) {
      if (this.#size + bytes <= this.#sizeMax) break;
      const readMs = statSync(this.#fileOf(digest)).atimeMs;
      if (readMs > kept.usedMs) {
        this.#use(digest);
        kept.usedMs = Math.max(readMs, kept.usedMs);
      } else {
        rmSync(this.#fileOf(digest));
        this.#forget(digest);
      }
    }
    if (this.#size + bytes > this.#sizeMax) {
      throw new CastoreError("EXHAUSTED", `blobs in ${this.#path}: over ${this.#sizeMax} bytes`);
    }
    this.#size += bytes;
  }

  #forget(digest: Digest): void {
    this.#size -= bytesOf(this.#kept.get(digest)?.size ?? 0);
    this.#kept.delete(digest);
  }

  #fileOf(digest: Digest): string {
    return join(this.#path, digest);
  }
}

/** Not before what a file system notes at the same time, in parts of a millisecond. */
function nowMs(): number {
  return Date.now() + 1;
}

/** Of a file of `size`. */
function bytesOf(size: number): number {
  return Math.ceil(size / PAGE_BYTES) * PAGE_BYTES;
}

function fileReader(digest: Digest, file: number, size: number): BlobReader {
  let isOpen = true;
  const close = async (): Promise<void> => {
    if (isOpen) closeSync(file);
    isOpen = false;
  };
  return {
    size,
    async *stream(start, end, { signal } = {}) {
      const range = clipRange(size, start, end);
      for (let from = range.start; from < range.end; from += PIECE_BYTES_MAX) {
        signal?.throwIfAborted();
        if (!isOpen) throw new CastoreError("CLOSED", `blob ${digest}: the reader is closed`);
        yield readPart(digest, file, {
          start: from,
          end: Math.min(from + PIECE_BYTES_MAX, range.end),
        });
      }
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}

function readPart(
  digest: Digest,
  file: number,
  { start, end }: { readonly start: number; readonly end: number },
): Uint8Array {
  const bytes = Buffer.allocUnsafeSlow(end - start);
  const count = readRange(file, { start, end, at: 0 }, bytes);
  if (count === bytes.length) return bytes;
  throw new CastoreError("CORRUPT", `blob ${digest}: ends at ${start + count}`);
}
