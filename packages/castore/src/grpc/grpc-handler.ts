import { once } from "node:events";
import { setImmediate as nextTurn } from "node:timers/promises";
import type {
  Metadata,
  ServerReadableStream,
  ServerUnaryCall,
  ServerWritableStream,
  sendUnaryData,
  UntypedHandleCall,
} from "@grpc/grpc-js";
import { CastoreError } from "../castore-error.ts";
import type { GrpcHeaders, GrpcMethod } from "./grpc-method.ts";
import { GrpcStatusError, grpcStatusOf } from "./grpc-status.ts";
import { grpcJs } from "./lazy-grpc.ts";

/** What a handler knows of its call besides the messages. */
export interface GrpcCall {
  /** Aborts when the client cancels, goes away, or its deadline passes. */
  readonly signal: AbortSignal;
  /** Sends headers; to be called at most once, before the first message. */
  sendHeaders(headers: GrpcHeaders): void;
}

/** A method and what answers it, made by unaryMethod, receivingMethod or sendingMethod. */
export interface GrpcServerMethod {
  readonly path: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
  handler(onError: (error: unknown) => void): UntypedHandleCall;
}

/** A service that a server offers. */
export interface GrpcService {
  /** "package.Service". */
  readonly name: string;
  readonly methods: readonly GrpcServerMethod[];
}

/** One message each way. */
export function unaryMethod<Q, R>(
  { path, request, response }: GrpcMethod<Q, R>,
  handle: (request: Q, call: GrpcCall) => Promise<R>,
): GrpcServerMethod {
  return {
    path,
    requestStream: false,
    responseStream: false,
    handler: (onError) => (call: ServerUnaryCall<Buffer, Buffer>, answer: Answer) => {
      const run = async (): Promise<Buffer> =>
        response.encode(await handle(request.decode(call.request), callOf(call)));
      void settle(run, answer, onError);
    },
  };
}

/** One message from the client, a stream to it. */
export function sendingMethod<Q, R>(
  { path, request, response }: GrpcMethod<Q, R>,
  handle: (request: Q, call: GrpcCall) => AsyncIterable<R>,
): GrpcServerMethod {
  return {
    path,
    requestStream: false,
    responseStream: true,
    handler: (onError) => (call: ServerWritableStream<Buffer, Buffer>) => {
      const run = async (): Promise<void> => {
        const handled = callOf(call);
        const { signal } = handled;
        for await (const message of handle(request.decode(call.request), handled)) {
          // The client has gone: nobody is owed anything.
          if (signal.aborted) return;
          if (!call.write(response.encode(message))) await once(call, "drain", { signal });
        }
        call.end();
      };
      run().catch((error: unknown) => {
        if (call.cancelled) return;
        report(error, onError);
        call.emit("error", grpcStatusOf(error));
      });
    },
  };
}

/** A stream from the client, one message to it. */
export function receivingMethod<Q, R>(
  { path, request, response }: GrpcMethod<Q, R>,
  handle: (requests: AsyncIterable<Q>, call: GrpcCall) => Promise<R>,
): GrpcServerMethod {
  return {
    path,
    requestStream: true,
    responseStream: false,
    handler: (onError) => (call: ServerReadableStream<Buffer, Buffer>, answer: Answer) => {
      const run = async (): Promise<Buffer> => {
        const handled = callOf(call);
        const { signal } = handled;
        const requests = async function* (): AsyncGenerator<Q, void, undefined> {
          for await (const message of call) yield request.decode(message);
          // A stream that the client cut off ends too, one tick before grpc-js says "cancelled".
          await nextTurn();
          signal.throwIfAborted();
        };
        return response.encode(await handle(requests(), handled));
      };
      void settle(run, answer, onError);
    },
  };
}

type Answer = sendUnaryData<Buffer>;

async function settle(
  run: () => Promise<Buffer>,
  answer: Answer,
  onError: (error: unknown) => void,
): Promise<void> {
  try {
    answer(null, await run());
  } catch (error) {
    report(error, onError);
    answer(grpcStatusOf(error));
  }
}

function report(error: unknown, onError: (error: unknown) => void): void {
  const cause = error instanceof GrpcStatusError ? (error.cause ?? error) : error;
  const expected = cause instanceof CastoreError || cause instanceof GrpcStatusError;
  if (!expected && !isCancellation(error)) onError(error);
}

const CANCELLED = "the client cancelled the call";

function isCancellation(error: unknown): boolean {
  return error instanceof Error && error.message === CANCELLED;
}

/** What all calls of grpc-js have. */
interface SurfaceCall {
  readonly cancelled: boolean;
  once(event: "cancelled", listener: () => void): unknown;
  sendMetadata(metadata: Metadata): void;
}

function callOf(call: SurfaceCall): GrpcCall {
  const controller = new AbortController();
  const abort = (): void => controller.abort(new Error(CANCELLED));
  if (call.cancelled) abort();
  call.once("cancelled", abort);
  return {
    signal: controller.signal,
    sendHeaders(headers) {
      const metadata = new (grpcJs().Metadata)();
      for (const [name, value] of Object.entries(headers)) metadata.set(name, value);
      call.sendMetadata(metadata);
    },
  };
}
