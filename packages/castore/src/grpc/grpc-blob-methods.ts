import { type Digest, digestBytes, digestOfBytes } from "../model/digest.ts";
import { bytesField, messageField, uintField, WireFields } from "../model/wire-fields.ts";
import type { ChunkMeta } from "../services/blob-service.ts";
import type { GrpcMethod, MessageCodec } from "./grpc-method.ts";

export const BLOB_SERVICE_NAME = "snix.castore.v1.BlobService";

/** A digest in a request is checked by the server, which owes a certain status for a wrong one. */
export interface StatBlobRequest {
  readonly digest: Uint8Array;
  readonly sendChunks: boolean;
}

const statBlobRequest: MessageCodec<StatBlobRequest> = {
  encode: ({ digest, sendChunks }) =>
    Buffer.concat([bytesField(1, digest), uintField(2, sendChunks ? 1 : 0)]),
  decode(bytes) {
    const fields = new WireFields(bytes, "StatBlobRequest");
    let digest: Uint8Array = new Uint8Array(0);
    let sendChunks = false;
    for (let field = fields.next(); field !== 0; field = fields.next()) {
      if (field === 1) digest = fields.bytes();
      else if (field === 2) sendChunks = fields.bool();
      else fields.skip();
    }
    return { digest, sendChunks };
  },
};

/** The chunks of a blob in order; none where it is one chunk or its store does not chunk. */
export const statBlobResponse: MessageCodec<readonly ChunkMeta[]> = {
  encode: (chunks) =>
    Buffer.concat(
      chunks.map(({ digest, size }) =>
        messageField(2, Buffer.concat([bytesField(1, digestBytes(digest)), uintField(2, size)])),
      ),
    ),
  decode(bytes) {
    const fields = new WireFields(bytes, "StatBlobResponse");
    const chunks: ChunkMeta[] = [];
    for (let field = fields.next(); field !== 0; field = fields.next()) {
      if (field === 2) chunks.push(readChunkMeta(fields.bytes()));
      else fields.skip();
    }
    return chunks;
  },
};

function readChunkMeta(bytes: Uint8Array): ChunkMeta {
  const fields = new WireFields(bytes, "ChunkMeta");
  let digest: Uint8Array = new Uint8Array(0);
  let size = 0;
  for (let field = fields.next(); field !== 0; field = fields.next()) {
    if (field === 1) digest = fields.bytes();
    else if (field === 2) size = fields.uint();
    else fields.skip();
  }
  return { digest: digestOfBytes(digest), size };
}

/** A message whose field 1 holds bytes and that has nothing else. */
export function singleBytesCodec(message: string): MessageCodec<Uint8Array> {
  return {
    encode: (bytes) => bytesField(1, bytes),
    decode(encoded) {
      const fields = new WireFields(encoded, message);
      let bytes: Uint8Array = new Uint8Array(0);
      for (let field = fields.next(); field !== 0; field = fields.next()) {
        if (field === 1) bytes = fields.bytes();
        else fields.skip();
      }
      return bytes;
    },
  };
}

/** A message whose field 1 holds a digest and that has nothing else. */
export function singleDigestCodec(message: string): MessageCodec<Digest> {
  const { encode, decode } = singleBytesCodec(message);
  return {
    encode: (digest) => encode(digestBytes(digest)),
    decode: (bytes) => digestOfBytes(decode(bytes)),
  };
}

export const blobStatMethod: GrpcMethod<StatBlobRequest, readonly ChunkMeta[]> = {
  path: `/${BLOB_SERVICE_NAME}/Stat`,
  request: statBlobRequest,
  response: statBlobResponse,
};

export const blobReadMethod: GrpcMethod<Uint8Array, Uint8Array> = {
  path: `/${BLOB_SERVICE_NAME}/Read`,
  request: singleBytesCodec("ReadBlobRequest"),
  response: singleBytesCodec("BlobChunk"),
};

export const blobPutMethod: GrpcMethod<Uint8Array, Digest> = {
  path: `/${BLOB_SERVICE_NAME}/Put`,
  request: singleBytesCodec("BlobChunk"),
  response: singleDigestCodec("PutBlobResponse"),
};
