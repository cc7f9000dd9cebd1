import type { Digest } from "../model/digest.ts";
import type { Directory } from "../model/directory.ts";
import { encodeDirectory } from "../model/directory-codec.ts";
import { decodeDirectoryLenient } from "../model/directory-lenient.ts";
import { messageField, uintField, WireFields } from "../model/wire-fields.ts";
import { singleDigestCodec } from "./grpc-blob-methods.ts";
import type { GrpcMethod, MessageCodec } from "./grpc-method.ts";

export const DIRECTORY_SERVICE_NAME = "snix.castore.v1.DirectoryService";

/** `digest` is undefined where the oneof is not set; the server checks its length. */
export interface GetDirectoryRequest {
  readonly digest: Uint8Array | undefined;
  readonly recursive: boolean;
}

const getDirectoryRequest: MessageCodec<GetDirectoryRequest> = {
  encode: ({ digest, recursive }) =>
    Buffer.concat([
      digest === undefined ? Buffer.alloc(0) : messageField(1, digest),
      uintField(2, recursive ? 1 : 0),
    ]),
  decode(bytes) {
    const fields = new WireFields(bytes, "GetDirectoryRequest");
    let digest: Uint8Array | undefined;
    let recursive = false;
    for (let field = fields.next(); field !== 0; field = fields.next()) {
      if (field === 1) digest = fields.bytes();
      else if (field === 2) recursive = fields.bool();
      else fields.skip();
    }
    return { digest, recursive };
  },
};

const directory: MessageCodec<Directory> = {
  encode: encodeDirectory,
  decode: (bytes) => decodeDirectoryLenient(bytes),
};

export const directoryGetMethod: GrpcMethod<GetDirectoryRequest, Directory> = {
  path: `/${DIRECTORY_SERVICE_NAME}/Get`,
  request: getDirectoryRequest,
  response: directory,
};

export const directoryPutMethod: GrpcMethod<Directory, Digest> = {
  path: `/${DIRECTORY_SERVICE_NAME}/Put`,
  request: directory,
  response: singleDigestCodec("PutDirectoryResponse"),
};
