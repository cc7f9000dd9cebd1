import { CastoreError } from "../castore-error.ts";
import { createChunkedReader, type FetchChunk } from "../chunking/chunked-reader.ts";
import { openStreamedBlob } from "../chunking/streamed-blob.ts";
import { createDigestHasher, type Digest, digestBytes, digestOf } from "../model/digest.ts";
import type { BlobReader, BlobService } from "../services/blob-service.ts";
import {
  type ChunkList,
  type ChunkLists,
  chunkListOf,
  createChunkLists,
} from "../services/chunk-lists.ts";
import { createBytesReader } from "../services/memory-blob-service.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import { blobPutMethod, blobReadMethod, blobStatMethod } from "./grpc-blob-methods.ts";
import type { GrpcChannel } from "./grpc-channel.ts";
import type { GrpcHeaders } from "./grpc-method.ts";
import { isGrpcNotFound } from "./grpc-status.ts";

/** A blob up to this size is read in one call and held: what is larger has chunks in snix. */
const HELD_BYTES_MAX = 512 << 10;

/** A larger blob of a server that tells no chunks is checked in pieces of this size. */
const PIECE_BYTES = 256 << 10;

/** What our servers say before a blob, which snix's messages have no place for. */
export const BLOB_SIZE_HEADER = "castore-blob-size";

/** Bytes in a message of ours. */
export const BLOB_MESSAGE_BYTES = 128 << 10;

/**
 * The blobs of a server of snix.castore.v1.BlobService. What it reads is verified, as
 * createChunkedReader says; the answer of `chunks` is what the server claims.
 * The channel stays the caller's.
 */
export function createGrpcBlobService(channel: GrpcChannel): BlobService {
  const lists = createChunkLists();
  return {
    async has(digest, options) {
      return (await stat(channel, lists, digest, options)) !== undefined;
    },
    open: (digest, options) => openRemote(channel, lists, digest, options),
    async put(source, options = {}) {
      const hasher = createDigestHasher();
      let size = 0;
      const messages = async function* (): AsyncGenerator<Uint8Array, void, undefined> {
        for await (const piece of source) {
          hasher.update(piece);
          size += piece.byteLength;
          yield* messagesOf(piece);
        }
        const { expect } = options;
        // Thrown before the stream ends, so that the server stores nothing.
        if (expect !== undefined) checkDigest(expect, hasher.digest());
      };
      const answer = await channel.send(blobPutMethod, messages(), options);
      checkDigest(hasher.digest(), answer);
      return { digest: answer, size };
    },
    async chunks(digest, options) {
      return (await stat(channel, lists, digest, options))?.chunks;
    },
  };
}

function checkDigest(want: Digest, got: Digest): void {
  if (got !== want) throw new CastoreError("CORRUPT", `blob ${want}: the bytes have digest ${got}`);
}

/** `bytes` in messages that are not too large. */
export function* messagesOf(bytes: Uint8Array): Generator<Uint8Array, void, undefined> {
  for (let from = 0; from < bytes.byteLength; from += BLOB_MESSAGE_BYTES) {
    yield bytes.subarray(from, from + BLOB_MESSAGE_BYTES);
  }
}

async function stat(
  channel: GrpcChannel,
  lists: ChunkLists,
  digest: Digest,
  options?: CallOptions,
): Promise<ChunkList | undefined> {
  options?.signal?.throwIfAborted();
  const known = lists.get(digest);
  // A list that is not empty never changes; an empty one may only say that nothing was known yet.
  if (known !== undefined) return known;
  const request = { digest: digestBytes(digest), sendChunks: true };
  try {
    const list = chunkListOf(digest, await channel.unary(blobStatMethod, request, options));
    if (list.chunks.length > 0) lists.set(digest, list);
    return list;
  } catch (error) {
    if (isGrpcNotFound(error)) return undefined;
    throw error;
  }
}

async function openRemote(
  channel: GrpcChannel,
  lists: ChunkLists,
  digest: Digest,
  options: CallOptions = {},
): Promise<BlobReader | undefined> {
  options.signal?.throwIfAborted();
  const known = lists.get(digest);
  if (known !== undefined) return chunkedReader(channel, digest, known);
  const held = await readHeld(channel, digest, options);
  if (held === undefined) return undefined;
  if (held.bytes !== undefined) {
    checkDigest(digest, digestOf(held.bytes));
    return createBytesReader(digest, held.bytes);
  }
  const list = await stat(channel, lists, digest, options);
  if (list === undefined) return undefined;
  if (list.chunks.length > 0) return chunkedReader(channel, digest, list);
  const read = (call: CallOptions) => readPieces(channel, digest, call);
  return await openStreamedBlob(digest, held.size, read, options);
}

/** All bytes of a blob where they are few, else its size where the server tells it. */
async function readHeld(
  channel: GrpcChannel,
  digest: Digest,
  options: CallOptions,
): Promise<{ readonly bytes?: Buffer; readonly size?: number | undefined } | undefined> {
  const pieces: Uint8Array[] = [];
  let held = 0;
  let size: number | undefined;
  const onHeaders = (headers: GrpcHeaders): void => {
    const told = Number(headers[BLOB_SIZE_HEADER] ?? Number.NaN);
    if (Number.isSafeInteger(told) && told >= 0) size = told;
  };
  const request = digestBytes(digest);
  try {
    for await (const data of channel.receive(blobReadMethod, request, { ...options, onHeaders })) {
      pieces.push(data);
      held += data.byteLength;
      if (held > HELD_BYTES_MAX || (size ?? 0) > HELD_BYTES_MAX) return { size };
    }
  } catch (error) {
    if (isGrpcNotFound(error)) return undefined;
    throw error;
  }
  return { bytes: Buffer.concat(pieces, held) };
}

function chunkedReader(channel: GrpcChannel, digest: Digest, list: ChunkList): BlobReader {
  const fetchChunk: FetchChunk = async (chunk, options) => {
    const bytes = Buffer.allocUnsafeSlow(chunk.size);
    const request = digestBytes(chunk.digest);
    let size = 0;
    try {
      for await (const data of channel.receive(blobReadMethod, request, options)) {
        if (size + data.byteLength > chunk.size) {
          const message = `chunk ${chunk.digest} of blob ${digest}: more than ${chunk.size} bytes`;
          throw new CastoreError("CORRUPT", message);
        }
        bytes.set(data, size);
        size += data.byteLength;
      }
    } catch (error) {
      if (isGrpcNotFound(error)) return undefined;
      throw error;
    }
    return bytes.subarray(0, size);
  };
  return createChunkedReader(digest, list, fetchChunk, (options) =>
    channel.receive(blobReadMethod, digestBytes(digest), options),
  );
}

/** The blob's bytes, unchecked, in pieces of PIECE_BYTES but for the last. */
async function* readPieces(
  channel: GrpcChannel,
  digest: Digest,
  options: CallOptions,
): AsyncGenerator<Buffer, void, undefined> {
  let piece = Buffer.allocUnsafeSlow(PIECE_BYTES);
  let filled = 0;
  for await (const data of channel.receive(blobReadMethod, digestBytes(digest), options)) {
    for (let from = 0; from < data.byteLength; ) {
      const take = Math.min(data.byteLength - from, PIECE_BYTES - filled);
      piece.set(data.subarray(from, from + take), filled);
      filled += take;
      from += take;
      if (filled < PIECE_BYTES) continue;
      yield piece;
      piece = Buffer.allocUnsafeSlow(PIECE_BYTES);
      filled = 0;
    }
  }
  if (filled > 0) yield piece.subarray(0, filled);
}
