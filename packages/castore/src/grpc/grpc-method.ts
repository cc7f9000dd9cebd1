/** How a message is written and read. `decode` rejects INVALID and may keep views of its input. */
export interface MessageCodec<T> {
  encode(value: T): Buffer;
  decode(bytes: Uint8Array): T;
}

/** A method of a gRPC service: what client and server must agree on. */
export interface GrpcMethod<Request, Response> {
  /** "/package.Service/Method". */
  readonly path: string;
  readonly request: MessageCodec<Request>;
  readonly response: MessageCodec<Response>;
}

/** Most bytes in a gRPC message, as tonic and grpc-js limit it by default. */
export const GRPC_MESSAGE_BYTES_MAX = 4 << 20;

/** What goes before the messages of an answer, by names in lower case. */
export type GrpcHeaders = Readonly<Record<string, string>>;
