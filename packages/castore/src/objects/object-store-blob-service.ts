import { CastoreError } from "../castore-error.ts";
import { createChunkedReader } from "../chunking/chunked-reader.ts";
import { chunksOf } from "../chunking/chunker.ts";
import { statBlobResponse } from "../grpc/grpc-blob-methods.ts";
import { createDigestHasher, type Digest, digestOf, EMPTY_DIGEST } from "../model/digest.ts";
import type { BlobService, ChunkMeta } from "../services/blob-service.ts";
import {
  CHUNK_BYTES_MAX,
  type ChunkList,
  type ChunkLists,
  chunkListOf,
  createChunkLists,
} from "../services/chunk-lists.ts";
import { createBytesReader } from "../services/memory-blob-service.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import { ZSTD_LEVEL, zstdCompress, zstdDecompress } from "../streams/zstd.ts";
import { OBJECT_REQUESTS_MAX } from "./object-http.ts";
import { type ObjectStore, objectKey } from "./object-store.ts";

export interface ObjectStoreBlobOptions {
  /** For chunks that are put. ZSTD_LEVEL by default. */
  readonly zstdLevel?: number | undefined;
}

/**
 * Blobs in an object store, in snix's layout (docs/object-store.md): chunks first, the index last,
 * nothing sent that is there already. What it reads is verified as createChunkedReader says. When
 * a put rejects, some chunks may stay behind, each a blob of its own. The store stays the caller's.
 */
export function createObjectStoreBlobService(
  objects: ObjectStore,
  { zstdLevel = ZSTD_LEVEL }: ObjectStoreBlobOptions = {},
): BlobService {
  const lists = createChunkLists();
  return {
    async has(digest, options) {
      if ((await objects.head(objectKey("blobs", digest), options)) !== undefined) return true;
      return (await objects.head(objectKey("chunks", digest), options)) !== undefined;
    },
    async open(digest, options = {}) {
      options.signal?.throwIfAborted();
      if (digest === EMPTY_DIGEST) return createBytesReader(digest, new Uint8Array(0));
      const known = lists.get(digest);
      const chunk = known === undefined ? await getChunk(objects, digest, options) : undefined;
      if (chunk !== undefined) return createBytesReader(digest, chunk);
      const list = known ?? (await getList(objects, lists, digest, options));
      if (list === undefined) return undefined;
      if (list.chunks.length === 0) {
        throw new CastoreError("INCOMPLETE", `blob ${digest}: its only chunk is missing`);
      }
      return createChunkedReader(digest, list, (meta, call) =>
        getChunk(objects, meta.digest, call, meta.size),
      );
    },
    async put(source, options = {}) {
      const { expect, signal } = options;
      const known = expect !== undefined && (await hasIndex(objects, expect, signal));
      await using uploads = createUploads(objects, zstdLevel, signal);
      const hasher = createDigestHasher();
      const chunks: ChunkMeta[] = [];
      let size = 0;
      let held: { readonly digest: Digest; readonly bytes: Uint8Array } | undefined;
      for await (const bytes of chunksOf(source, { signal })) {
        hasher.update(bytes);
        size += bytes.byteLength;
        const digest = digestOf(bytes);
        chunks.push({ digest, size: bytes.byteLength });
        // The first chunk waits for the second: alone it is the blob, which may yet be refused.
        if (held !== undefined && !known) await uploads.add(held.digest, held.bytes);
        held = { digest, bytes };
      }
      const digest = hasher.digest();
      if (expect !== undefined && digest !== expect) {
        throw new CastoreError("CORRUPT", `blob ${expect}: the bytes have digest ${digest}`);
      }
      if (known) return { digest, size };
      if (held !== undefined) await uploads.add(held.digest, held.bytes);
      await uploads.finish();
      await putIndex(objects, digest, chunks, signal);
      return { digest, size };
    },
    async chunks(digest, options = {}) {
      options.signal?.throwIfAborted();
      const list = lists.get(digest) ?? (await getList(objects, lists, digest, options));
      if (list !== undefined) return list.chunks;
      const chunk = await objects.head(objectKey("chunks", digest), options);
      return chunk === undefined ? undefined : [];
    },
  };
}

async function hasIndex(
  objects: ObjectStore,
  digest: Digest,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  return (await objects.head(objectKey("blobs", digest), { signal })) !== undefined;
}

async function putIndex(
  objects: ObjectStore,
  digest: Digest,
  chunks: readonly ChunkMeta[],
  signal: AbortSignal | undefined,
): Promise<void> {
  if (await hasIndex(objects, digest, signal)) return;
  const index = statBlobResponse.encode(chunks.length > 1 ? chunks : []);
  await objects.put(objectKey("blobs", digest), index, { signal, ifAbsent: true });
}

async function getList(
  objects: ObjectStore,
  lists: ChunkLists,
  digest: Digest,
  options: CallOptions,
): Promise<ChunkList | undefined> {
  const bytes = await objects.get(objectKey("blobs", digest), options);
  if (bytes === undefined) return undefined;
  const list = chunkListOf(digest, decodeIndex(objects, digest, bytes));
  if (list.chunks.length > 0) lists.set(digest, list);
  return list;
}

function decodeIndex(objects: ObjectStore, digest: Digest, bytes: Buffer): readonly ChunkMeta[] {
  try {
    return statBlobResponse.decode(bytes);
  } catch (cause) {
    throw new CastoreError("CORRUPT", `${objects.name}: index of blob ${digest}`, { cause });
  }
}

/** The chunk, verified; undefined where it is absent. */
async function getChunk(
  objects: ObjectStore,
  digest: Digest,
  options: CallOptions,
  sizeMax = CHUNK_BYTES_MAX,
): Promise<Uint8Array | undefined> {
  const key = objectKey("chunks", digest);
  const compressed = await objects.get(key, { ...options, bytesMax: 2 * CHUNK_BYTES_MAX });
  if (compressed === undefined) return undefined;
  const bytes = decompress(objects, key, compressed, sizeMax);
  const got = digestOf(bytes);
  if (got === digest) return bytes;
  throw new CastoreError("CORRUPT", `${objects.name}: object ${key} has digest ${got}`);
}

function decompress(
  objects: ObjectStore,
  key: string,
  compressed: Uint8Array,
  sizeMax: number,
): Uint8Array {
  try {
    return zstdDecompress(compressed, sizeMax);
  } catch (cause) {
    throw new CastoreError("CORRUPT", `${objects.name}: object ${key}`, { cause });
  }
}

/** Chunks on their way into the store, a bounded number at once. */
interface Uploads extends AsyncDisposable {
  /** Resolves once there is room for the next. Rejects with the first failure of any. */
  add(digest: Digest, bytes: Uint8Array): Promise<void>;
  /** Resolves once all are stored. */
  finish(): Promise<void>;
}

function createUploads(
  objects: ObjectStore,
  zstdLevel: number,
  signal: AbortSignal | undefined,
): Uploads {
  const stop = new AbortController();
  const options = {
    signal: signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]),
  };
  const running = new Map<Digest, Promise<void>>();
  const failures: unknown[] = [];
  const upload = async (digest: Digest, bytes: Uint8Array): Promise<void> => {
    try {
      const key = objectKey("chunks", digest);
      if ((await objects.head(key, options)) !== undefined) return;
      await objects.put(key, zstdCompress(bytes, zstdLevel), { ...options, ifAbsent: true });
    } catch (error) {
      failures.push(error);
    } finally {
      running.delete(digest);
    }
  };
  const check = (): void => {
    if (failures.length === 0) return;
    signal?.throwIfAborted();
    throw failures[0];
  };
  const settle = async (): Promise<void> => {
    await Promise.all(running.values());
  };
  return {
    async add(digest, bytes) {
      if (running.has(digest)) return;
      while (running.size >= OBJECT_REQUESTS_MAX) await Promise.race(running.values());
      check();
      running.set(digest, upload(digest, bytes));
    },
    async finish() {
      await settle();
      check();
    },
    async [Symbol.asyncDispose]() {
      stop.abort(new CastoreError("CLOSED", "the put ended"));
      await settle();
    },
  };
}
