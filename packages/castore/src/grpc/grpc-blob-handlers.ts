import { CastoreError } from "../castore-error.ts";
import { DIGEST_BYTES, type Digest, digestOfBytes, formatDigestText } from "../model/digest.ts";
import type { BlobReader, BlobService } from "../services/blob-service.ts";
import type { ChunkIndex } from "../services/chunk-index.ts";
import { createBytesReader } from "../services/memory-blob-service.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import {
  BLOB_SERVICE_NAME,
  blobPutMethod,
  blobReadMethod,
  blobStatMethod,
} from "./grpc-blob-methods.ts";
import { BLOB_SIZE_HEADER, messagesOf } from "./grpc-blob-service.ts";
import { type GrpcService, receivingMethod, sendingMethod, unaryMethod } from "./grpc-handler.ts";
import { GrpcStatusError } from "./grpc-status.ts";
import { grpcStatus as status } from "./grpc-status-codes.ts";

export interface BlobGrpcOptions {
  /** Finds chunks that `blobs` does not find by themselves. */
  readonly chunks?: ChunkIndex | undefined;
}

/** Offers `blobs` as snix.castore.v1.BlobService. */
export function createBlobGrpcService(
  blobs: BlobService,
  options: BlobGrpcOptions = {},
): GrpcService {
  const hasChunk = async (digest: Digest, call: CallOptions): Promise<boolean> => {
    const [indexed] = (await options.chunks?.has([digest], call)) ?? [];
    return indexed === true;
  };
  const open = async (digest: Digest, call: CallOptions): Promise<BlobReader | undefined> => {
    const reader = await blobs.open(digest, call);
    if (reader !== undefined) return reader;
    const chunk = await options.chunks?.get({ digest }, call);
    return chunk && createBytesReader(digest, chunk);
  };
  return {
    name: BLOB_SERVICE_NAME,
    methods: [
      unaryMethod(blobStatMethod, async (request, { signal }) => {
        const digest = requestedDigest(request.digest);
        const chunks = await blobs.chunks(digest, { signal });
        if (chunks === undefined) {
          if (await hasChunk(digest, { signal })) return [];
          throw notFound(digest);
        }
        const [first] = chunks;
        // snix wants a list of one left out, and every chunk of a list to be read like a blob.
        if (first === undefined || chunks.length === 1) return [];
        const whole = await blobs.has(first.digest, { signal });
        return whole || (await hasChunk(first.digest, { signal })) ? chunks : [];
      }),
      sendingMethod(blobReadMethod, async function* (request, { signal, sendHeaders }) {
        const digest = requestedDigest(request);
        const reader = await open(digest, { signal });
        if (reader === undefined) throw notFound(digest);
        try {
          sendHeaders({ [BLOB_SIZE_HEADER]: String(reader.size) });
          for await (const piece of reader.stream(0, undefined, { signal })) {
            yield* messagesOf(piece);
          }
        } finally {
          await reader.close();
        }
      }),
      receivingMethod(blobPutMethod, async (messages, { signal }) => {
        try {
          return (await blobs.put(messages, { signal })).digest;
        } catch (error) {
          if (!(error instanceof CastoreError)) throw error;
          const message = `error copying: ${error.message}`;
          throw new GrpcStatusError(status.INTERNAL, message, { cause: error });
        }
      }),
    ],
  };
}

/** The digest in a request, whose length the client may have got wrong. */
export function requestedDigest(bytes: Uint8Array): Digest {
  if (bytes.byteLength === DIGEST_BYTES) return digestOfBytes(bytes);
  throw new GrpcStatusError(status.INVALID_ARGUMENT, "invalid digest length");
}

function notFound(digest: Digest): GrpcStatusError {
  return new GrpcStatusError(status.NOT_FOUND, `blob ${formatDigestText(digest)} not found`);
}
