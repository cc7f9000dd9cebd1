import {
  bytesField,
  type GrpcMethod,
  type MessageCodec,
  messageField,
  uintField,
  WireFields,
} from "@castore/castore";

export const PATH_INFO_SERVICE_NAME = "snix.store.v1.PathInfoService";

/** A message that is decoded by its handler, which owes certain statuses for wrong ones. */
const raw: MessageCodec<Uint8Array> = {
  encode: (bytes) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength),
  decode: (bytes) => bytes,
};

/** The output hash asked for, of any length; undefined where the oneof is not set. */
const getPathInfoRequest: MessageCodec<Uint8Array | undefined> = {
  encode: (hash) => (hash === undefined ? Buffer.alloc(0) : messageField(1, hash)),
  decode(bytes) {
    const fields = new WireFields(bytes, "GetPathInfoRequest");
    let hash: Uint8Array | undefined;
    for (let field = fields.next(); field !== 0; field = fields.next()) {
      if (field === 1) hash = fields.bytes();
      else fields.skip();
    }
    return hash;
  },
};

/** Size and SHA-256 of a NAR. */
export interface CalculateNarResponse {
  readonly narSize: number;
  readonly narSha256: Uint8Array;
}

const calculateNarResponse: MessageCodec<CalculateNarResponse> = {
  encode: ({ narSize, narSha256 }) =>
    Buffer.concat([uintField(1, narSize), bytesField(2, narSha256)]),
  decode(bytes) {
    const fields = new WireFields(bytes, "CalculateNARResponse");
    let narSize = 0;
    let narSha256: Uint8Array = new Uint8Array(0);
    for (let field = fields.next(); field !== 0; field = fields.next()) {
      if (field === 1) narSize = fields.uint();
      else if (field === 2) narSha256 = fields.bytes();
      else fields.skip();
    }
    return { narSize, narSha256 };
  },
};

export const pathInfoGetMethod: GrpcMethod<Uint8Array | undefined, Uint8Array> = {
  path: `/${PATH_INFO_SERVICE_NAME}/Get`,
  request: getPathInfoRequest,
  response: raw,
};

export const pathInfoPutMethod: GrpcMethod<Uint8Array, Uint8Array> = {
  path: `/${PATH_INFO_SERVICE_NAME}/Put`,
  request: raw,
  response: raw,
};

export const calculateNarMethod: GrpcMethod<Uint8Array, CalculateNarResponse> = {
  path: `/${PATH_INFO_SERVICE_NAME}/CalculateNAR`,
  request: raw,
  response: calculateNarResponse,
};

export const pathInfoListMethod: GrpcMethod<Uint8Array, Uint8Array> = {
  path: `/${PATH_INFO_SERVICE_NAME}/List`,
  request: raw,
  response: raw,
};
