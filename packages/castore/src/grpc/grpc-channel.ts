import { readFile } from "node:fs/promises";
import type { ChannelCredentials, Client, Metadata } from "@grpc/grpc-js";
import { CastoreError } from "../castore-error.ts";
import type { GrpcAddress } from "../services/service-url.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import { cancellable } from "../streams/cancellable.ts";
import { GRPC_MESSAGE_BYTES_MAX, type GrpcHeaders, type GrpcMethod } from "./grpc-method.ts";
import { castoreErrorOfGrpc } from "./grpc-status.ts";
import { grpcJs } from "./lazy-grpc.ts";

export interface ReceiveOptions extends CallOptions {
  /** Told of the server's headers, before the first message. */
  readonly onHeaders?: ((headers: GrpcHeaders) => void) | undefined;
}

/** A connection to a gRPC server, made when first used and made again when it breaks. */
export interface GrpcChannel extends AsyncDisposable {
  /** The server, as errors name it. */
  readonly target: string;
  /** One message each way. */
  unary<Q, R>(method: GrpcMethod<Q, R>, request: Q, options?: CallOptions): Promise<R>;
  /** One message there, a stream back; ending the iteration early cancels the call. */
  receive<Q, R>(method: GrpcMethod<Q, R>, request: Q, options?: ReceiveOptions): AsyncIterable<R>;
  /**
   * A stream there, one message back. When `requests` throws, the call is cancelled, which the
   * server can tell from its end.
   */
  send<Q, R>(
    method: GrpcMethod<Q, R>,
    requests: AsyncIterable<Q> | Iterable<Q>,
    options?: CallOptions,
  ): Promise<R>;
  /** Resolves once connected. Rejects UNAVAILABLE after the time-out. */
  connect(): Promise<void>;
  /** Calls still under way fail. Idempotent. */
  close(): Promise<void>;
}

export interface GrpcChannelOptions {
  /**
   * How long a server may be silent: until the answer of a unary call, or between two messages of
   * a stream. Then calls reject UNAVAILABLE.
   */
  readonly timeoutMs?: number | undefined;
  /**
   * Whether it shares neither connections nor their failures with other channels to the same
   * server in this process, as it else does.
   */
  readonly isAlone?: boolean | undefined;
}

const TIMEOUT_MS = 60_000;

/**
 * What a server may send ahead, on all streams of a connection together. HTTP/2's own 64 KiB would
 * be 640 KB/s at a round trip of 100 ms.
 */
const WINDOW_BYTES = 8 << 20;

/** Opens a channel. With TLS, rejects INVALID where a certificate file cannot be read. */
export async function openGrpcChannel(
  address: GrpcAddress,
  options: GrpcChannelOptions = {},
): Promise<GrpcChannel> {
  const channel = new Http2Channel(address, await credentialsOf(address), options);
  if (!address.waitConnect) return channel;
  try {
    await channel.connect();
  } catch (error) {
    await channel.close();
    throw error;
  }
  return channel;
}

async function credentialsOf(address: GrpcAddress): Promise<ChannelCredentials> {
  const { tls } = address;
  const { credentials } = grpcJs();
  if (tls === undefined) return credentials.createInsecure();
  const read = async (path: string | undefined): Promise<Buffer | null> => {
    if (path === undefined) return null;
    try {
      return await readFile(path);
    } catch (error) {
      throw new CastoreError("INVALID", `TLS file ${path}: cannot be read`, { cause: error });
    }
  };
  const [ca, key, certificate] = await Promise.all([
    read(tls.caPath),
    read(tls.clientKeyPath),
    read(tls.clientCertPath),
  ]);
  return credentials.createSsl(ca, key, certificate);
}

const identity = (bytes: Buffer): Buffer => bytes;

class Http2Channel implements GrpcChannel {
  readonly target: string;
  readonly #client: Client;
  readonly #timeoutMs: number;
  #closed = false;

  constructor(address: GrpcAddress, creds: ChannelCredentials, options: GrpcChannelOptions) {
    this.target = address.target;
    this.#timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
    this.#client = new (grpcJs().Client)(address.dial, creds, {
      "grpc.max_receive_message_length": GRPC_MESSAGE_BYTES_MAX,
      "grpc.max_send_message_length": GRPC_MESSAGE_BYTES_MAX,
      "grpc-node.flow_control_window": WINDOW_BYTES,
      "grpc.use_local_subchannel_pool": options.isAlone === true ? 1 : 0,
    });
  }

  unary<Q, R>(method: GrpcMethod<Q, R>, request: Q, options: CallOptions = {}): Promise<R> {
    return this.#call(method, options, (signal) => {
      const { promise, settle } = deferred<Buffer>();
      const bytes = method.request.encode(request);
      const deadline = Date.now() + this.#timeoutMs;
      const { path } = method;
      const call = this.#client.makeUnaryRequest(
        path,
        identity,
        identity,
        bytes,
        new (grpcJs().Metadata)(),
        { deadline },
        settle,
      );
      return withAbort(signal, call, async () => method.response.decode(await promise));
    });
  }

  async *receive<Q, R>(
    method: GrpcMethod<Q, R>,
    request: Q,
    options: ReceiveOptions = {},
  ): AsyncGenerator<R, void, undefined> {
    this.#check(method.path, options.signal);
    const bytes = method.request.encode(request);
    const call = this.#client.makeServerStreamRequest(method.path, identity, identity, bytes);
    call.on("metadata", (metadata) => options.onHeaders?.(headersOf(metadata)));
    // An error may still be emitted after the iteration has ended.
    call.on("error", () => {});
    const silence = createSilence(this.#timeoutMs, () => call.cancel());
    const abort = (): void => call.cancel();
    options.signal?.addEventListener("abort", abort, { once: true });
    try {
      const messages = call[Symbol.asyncIterator]();
      while (true) {
        silence.begin();
        const next = await messages.next();
        silence.end();
        if (next.done === true) return;
        yield method.response.decode(next.value);
        options.signal?.throwIfAborted();
      }
    } catch (error) {
      options.signal?.throwIfAborted();
      throw silence.broken
        ? this.#silent(method.path)
        : castoreErrorOfGrpc(error, method.path, this.target);
    } finally {
      silence.end();
      options.signal?.removeEventListener("abort", abort);
      call.cancel();
    }
  }

  send<Q, R>(
    method: GrpcMethod<Q, R>,
    requests: AsyncIterable<Q> | Iterable<Q>,
    options: CallOptions = {},
  ): Promise<R> {
    return this.#call(method, options, (signal) => {
      const { promise, settle } = deferred<Buffer>();
      const call = this.#client.makeClientStreamRequest(method.path, identity, identity, settle);
      const silence = createSilence(this.#timeoutMs, () => call.cancel());
      let answered = false;
      let wake = (): void => {};
      const end = (): void => {
        answered = true;
        wake();
      };
      promise.then(end, end);
      call.on("drain", () => wake());
      return withAbort(signal, call, async () => {
        try {
          for await (const request of cancellable(requests, signal)) {
            // An answer before the end of the stream is a refusal.
            if (answered) break;
            if (call.write(method.request.encode(request))) continue;
            silence.begin();
            await new Promise<void>((resolve) => {
              wake = resolve;
              if (answered) resolve();
            });
            silence.end();
          }
          call.end();
          silence.begin();
          return method.response.decode(await promise);
        } catch (error) {
          call.cancel();
          throw silence.broken ? this.#silent(method.path) : error;
        } finally {
          silence.end();
        }
      });
    });
  }

  connect(): Promise<void> {
    const channel = this.#client.getChannel();
    const deadline = Date.now() + this.#timeoutMs;
    return new Promise((resolve, reject) => {
      const fail = (cause?: Error): void =>
        reject(new CastoreError("UNAVAILABLE", `${this.target}: cannot connect`, { cause }));
      const look = (): void => {
        const state = channel.getConnectivityState(true);
        if (state === grpcJs().connectivityState.READY) resolve();
        else if (state === grpcJs().connectivityState.TRANSIENT_FAILURE) fail();
        else
          channel.watchConnectivityState(state, deadline, (error) =>
            error ? fail(error) : look(),
          );
      };
      look();
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#client.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #call<R>(
    { path }: { readonly path: string },
    { signal }: CallOptions,
    run: (signal: AbortSignal | undefined) => Promise<R>,
  ): Promise<R> {
    this.#check(path, signal);
    try {
      return await run(signal);
    } catch (error) {
      signal?.throwIfAborted();
      throw castoreErrorOfGrpc(error, path, this.target);
    }
  }

  #check(path: string, signal: AbortSignal | undefined): void {
    signal?.throwIfAborted();
    if (this.#closed) throw new CastoreError("CLOSED", `${this.target}${path}: channel is closed`);
  }

  #silent(path: string): CastoreError {
    const message = `${this.target}${path}: silent for ${this.#timeoutMs} ms`;
    return new CastoreError("UNAVAILABLE", message);
  }
}

function headersOf(metadata: Metadata): GrpcHeaders {
  return Object.fromEntries(
    Object.entries(metadata.getMap()).map(([name, value]) => [name, String(value)]),
  );
}

interface Deferred<T> {
  readonly promise: Promise<T>;
  readonly settle: (error: Error | null, value?: T) => void;
}

/** A promise settled by a callback in Node's style; unobserved, its rejection is nobody's. */
function deferred<T>(): Deferred<T> {
  let settle: Deferred<T>["settle"] = () => {};
  const promise = new Promise<T>((resolve, reject) => {
    settle = (error, value) => {
      if (error !== null || value === undefined) reject(error ?? new Error("no message"));
      else resolve(value);
    };
  });
  promise.catch(() => {});
  return { promise, settle };
}

async function withAbort<R>(
  signal: AbortSignal | undefined,
  call: { cancel(): void },
  run: () => Promise<R>,
): Promise<R> {
  const abort = (): void => call.cancel();
  signal?.addEventListener("abort", abort, { once: true });
  try {
    return await run();
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

interface Silence {
  begin(): void;
  end(): void;
  readonly broken: boolean;
}

/** Calls `onTimeout` when it takes longer than `ms` from begin() to end(). */
function createSilence(ms: number, onTimeout: () => void): Silence {
  let timer: NodeJS.Timeout | undefined;
  let broken = false;
  const fire = (): void => {
    broken = true;
    onTimeout();
  };
  return {
    begin() {
      clearTimeout(timer);
      timer = setTimeout(fire, ms);
    },
    end() {
      clearTimeout(timer);
    },
    get broken() {
      return broken;
    },
  };
}
