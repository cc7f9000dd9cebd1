import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { status } from "@grpc/grpc-js";
import { expect } from "vitest";
import { type GrpcChannel, openGrpcChannel } from "../src/grpc/grpc-channel.ts";
import type { GrpcService } from "../src/grpc/grpc-handler.ts";
import { createGrpcServer, type GrpcServer } from "../src/grpc/grpc-server.ts";
import { hasGrpcStatus } from "../src/grpc/grpc-status.ts";
import { parseBlobServiceUrl } from "../src/services/service-url.ts";

export interface GrpcPair {
  readonly server: GrpcServer;
  readonly channel: GrpcChannel;
  /** What the server told its onError. */
  readonly errors: unknown[];
  close(): Promise<void>;
}

/** A server of `services` on loopback TCP or a unix socket, and a channel to it. */
export async function openGrpcPair(
  services: readonly GrpcService[],
  transport: "tcp" | "unix" = "tcp",
  timeoutMs?: number,
): Promise<GrpcPair> {
  const errors: unknown[] = [];
  const server = createGrpcServer({ services, onError: (error) => errors.push(error) });
  const directory = await mkdtemp(join(tmpdir(), "castore-grpc-"));
  const socket = join(directory, "socket");
  const url =
    transport === "unix"
      ? `grpc+unix:${socket}`
      : `grpc+http://127.0.0.1:${await server.listen("127.0.0.1:0")}`;
  if (transport === "unix") await server.listen(`unix:${socket}`);
  const channel = await openGrpcChannel(grpcAddressOf(url), { timeoutMs });
  return {
    server,
    channel,
    errors,
    async close() {
      await channel.close();
      await server.close(0);
      await rm(directory, { recursive: true });
    },
  };
}

/** The address in a gRPC service URL. */
export function grpcAddressOf(url: string) {
  const parsed = parseBlobServiceUrl(url);
  if (parsed.type !== "grpc") throw new Error(`${url} is no gRPC URL`);
  return parsed.address;
}

/** Expects a call to fail with this status and a message that holds `details`. */
export async function expectStatus(promise: Promise<unknown>, code: status, details: string) {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(hasGrpcStatus(error, code), `${error}`).toBe(true);
  expect(error).toHaveProperty("cause.details", expect.stringContaining(details));
}

/** All items of a stream. */
export async function collect<T>(source: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of source) items.push(item);
  return items;
}

/** A promise and what settles it. */
export function deferred<T>() {
  let resolve: (value: T) => void = () => {};
  const promise = new Promise<T>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}
