import { lstat, rm } from "node:fs/promises";
import { connect } from "node:net";
import type { Server } from "@grpc/grpc-js";
import { CastoreError } from "../castore-error.ts";
import type { GrpcService } from "./grpc-handler.ts";
import { createHealthGrpcService } from "./grpc-health.ts";
import { GRPC_MESSAGE_BYTES_MAX } from "./grpc-method.ts";
import { grpcJs } from "./lazy-grpc.ts";

export interface GrpcServerOptions {
  readonly services: readonly GrpcService[];
  /** Told of every error that is no CastoreError, a bug: the client sees none of it. */
  readonly onError?: ((error: unknown, path: string) => void) | undefined;
}

/** A server over HTTP/2 without TLS. */
export interface GrpcServer extends AsyncDisposable {
  /**
   * Listens at "host:port", "[::1]:port" or "unix:/path"; may be called several times. Resolves
   * with the port, 0 for a socket. Rejects UNAVAILABLE where it cannot.
   */
  listen(address: string): Promise<number>;
  /** Waits for calls under way, at most `graceMs`, then ends them. Idempotent. */
  close(graceMs?: number): Promise<void>;
}

const CLOSE_GRACE_MS = 5_000;

/** Offers `services` and the health service. */
export function createGrpcServer(options: GrpcServerOptions): GrpcServer {
  // What grpc-js would print to stderr, we reject with.
  const { logVerbosity, Server, setLogVerbosity } = grpcJs();
  setLogVerbosity(logVerbosity.NONE);
  const server = new Server({
    "grpc.max_receive_message_length": GRPC_MESSAGE_BYTES_MAX,
    "grpc.max_send_message_length": GRPC_MESSAGE_BYTES_MAX,
  });
  const closing = new AbortController();
  const names = options.services.map(({ name }) => name);
  const health = createHealthGrpcService(names, closing.signal);
  for (const service of [...options.services, health]) {
    addService(server, service, options.onError);
  }
  const sockets: string[] = [];
  let closed: Promise<void> | undefined;
  const close = async (graceMs: number): Promise<void> => {
    closing.abort();
    const timer = setTimeout(() => server.forceShutdown(), graceMs);
    await new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
    clearTimeout(timer);
    for (const path of sockets) await rm(path, { force: true });
  };
  return {
    async listen(address) {
      if (!address.startsWith("unix:")) return await bind(server, address);
      const path = address.slice("unix:".length);
      await removeStaleSocket(path);
      await bind(server, address);
      sockets.push(path);
      return 0;
    },
    close(graceMs = CLOSE_GRACE_MS) {
      closed ??= close(graceMs);
      return closed;
    },
    [Symbol.asyncDispose]() {
      return this.close();
    },
  };
}

function bind(server: Server, address: string): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(address, grpcJs().ServerCredentials.createInsecure(), (error, port) => {
      if (error === null) return resolve(port);
      const message = `gRPC server: cannot listen at ${address}: ${error.message}`;
      reject(new CastoreError("UNAVAILABLE", message, { cause: error }));
    });
  });
}

/** A socket of a server that was killed stays behind, and nobody answers on it. */
async function removeStaleSocket(path: string): Promise<void> {
  const isSocket = await lstat(path).then(
    (stats) => stats.isSocket(),
    () => false,
  );
  if (!isSocket) return;
  const answered = await new Promise<boolean>((resolve) => {
    const socket = connect(path, () => resolve(true));
    socket.on("error", () => resolve(false));
    socket.on("close", () => resolve(false));
    socket.on("connect", () => socket.destroy());
  });
  if (!answered) await rm(path, { force: true });
}

const identity = (bytes: Buffer): Buffer => bytes;

function addService(
  server: Server,
  service: GrpcService,
  onError: GrpcServerOptions["onError"],
): void {
  const definitions = service.methods.map(({ path, requestStream, responseStream }) => [
    path,
    {
      path,
      requestStream,
      responseStream,
      requestSerialize: identity,
      requestDeserialize: identity,
      responseSerialize: identity,
      responseDeserialize: identity,
    },
  ]);
  const handlers = service.methods.map((method) => [
    method.path,
    method.handler((error) => onError?.(error, method.path)),
  ]);
  server.addService(Object.fromEntries(definitions), Object.fromEntries(handlers));
}
