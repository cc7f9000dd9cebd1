import { once } from "node:events";
import { createServer as createHttp2Server, type Http2Server } from "node:http2";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import type { BlobReader, BlobService, DirectoryService } from "@castore/castore";
import { NIX_STORE_DIR } from "../src/nix/store-path.ts";
import { createCacheGrpcServer, listenGrpc } from "../src/server/cache-grpc-server.ts";
import type { TestPath } from "./path-fixture.ts";
import { Relay } from "./relay.ts";
import { type Serve, startServe, upload } from "./serve-fixture.ts";

/** What goes wrong with gRPC before any service is reached. */
export type ConnectionFault =
  | { readonly kind: "reset" | "silent" | "plainHttp" }
  /** The server's bytes stop, with the connection cut or left open. */
  | { readonly kind: "cut" | "stall"; readonly after: number }
  /** An HTTP/2 server that knows no gRPC. */
  | { readonly kind: "http2"; readonly status: number; readonly type: string };

/** What a service does in place of what it should. */
export interface ServiceFaults {
  getClosure?: DirectoryService["getClosure"] | undefined;
  chunks?: BlobService["chunks"];
  open?: BlobService["open"];
  /** Chunks that are no blobs by themselves are not found. */
  noChunks?: boolean;
}

/** A cache of snix's kind: narinfos with NARs by root node, and gRPC at the same port. */
export interface SnixCache extends AsyncDisposable {
  readonly url: string;
  readonly serve: Serve;
  /** Sees what comes over HTTP/1.1. */
  readonly relay: Relay;
  /** Calls of the blob and directory services. */
  readonly calls: string[];
  /** HTTP/2 connections so far. */
  connections: number;
  fault: ConnectionFault | undefined;
  faults: ServiceFaults;
}

export async function startSnixCache(
  paths: readonly TestPath[],
  options: { readonly upgrade: boolean } = { upgrade: false },
): Promise<SnixCache> {
  const serve = await startServe(options);
  await upload(serve, ...paths);
  const relay = await Relay.start(serve.url);
  const grpc = createCacheGrpcServer({
    services: {
      blobs: {
        has: (digest, call) => serve.store.blobs.has(digest, call),
        put: (source, call) => serve.store.blobs.put(source, call),
        chunks(digest, call) {
          self.calls.push("chunks");
          const { chunks } = self.faults;
          return chunks ? chunks(digest, call) : serve.store.blobs.chunks(digest, call);
        },
        open(digest, call) {
          self.calls.push("open");
          const { open } = self.faults;
          return open ? open(digest, call) : serve.store.blobs.open(digest, call);
        },
      },
      directories: {
        get: (digest, call) => serve.store.directories.get(digest, call),
        putClosure: (all, call) => serve.store.directories.putClosure(all, call),
        getClosure(root, call) {
          self.calls.push("getClosure");
          const { getClosure } = self.faults;
          return getClosure?.(root, call) ?? serve.store.directories.getClosure(root, call);
        },
      },
    },
    chunks: {
      has: async (digests, call) =>
        self.faults.noChunks
          ? digests.map(() => false)
          : await serve.store.chunks.has(digests, call),
      get: async (chunk, call) =>
        self.faults.noChunks ? undefined : await serve.store.chunks.get(chunk, call),
    },
    pathInfos: serve.pathInfos,
    storeDir: NIX_STORE_DIR,
    log: (line) => serve.log.push(line),
  });
  const grpcUrl = new URL((await listenGrpc(grpc, { host: "127.0.0.1", port: 0 })).slice(5));
  const others: Http2Server[] = [];
  const sockets = new Set<Socket>();
  const front = createServer((socket) => {
    sockets.add(socket.on("error", () => {}).once("close", () => sockets.delete(socket)));
    socket.once("data", (first) => void forward(socket, first).catch(() => socket.destroy()));
  });
  front.listen(0, "127.0.0.1");
  await once(front, "listening");
  const self: SnixCache = {
    url: `http://127.0.0.1:${(front.address() as AddressInfo).port}`,
    ...{ serve, relay, calls: [], connections: 0, fault: undefined, faults: {} },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      front.close();
      for (const other of others) other.close();
      await grpc.close(0);
      for (const part of [relay, serve]) await part[Symbol.asyncDispose]();
    },
  };

  async function forward(socket: Socket, first: Buffer): Promise<void> {
    socket.pause();
    if (!first.subarray(0, 5).equals(Buffer.from("PRI *"))) {
      join(socket, first, Number(new URL(relay.url).port));
      return;
    }
    self.connections++;
    const { fault } = self;
    if (fault?.kind === "silent") return;
    if (fault?.kind === "reset") socket.destroy();
    else if (fault?.kind === "plainHttp") join(socket, first, Number(new URL(relay.url).port));
    else if (fault?.kind === "http2") {
      const other = createHttp2Server((_request, response) => {
        response.writeHead(fault.status, { "content-type": fault.type }).end("<html>");
      });
      others.push(other.listen(0, "127.0.0.1"));
      await once(other, "listening");
      join(socket, first, (other.address() as AddressInfo).port);
    } else join(socket, first, Number(grpcUrl.port), fault);
  }
  return self;
}

function join(socket: Socket, first: Buffer, port: number, fault?: ConnectionFault): void {
  const target = connect(port, "127.0.0.1").on("error", () => socket.destroy());
  target.once("close", () => socket.destroy());
  socket.once("close", () => target.destroy());
  target.write(first);
  socket.pipe(target);
  if (fault?.kind !== "cut" && fault?.kind !== "stall") {
    target.pipe(socket);
    return;
  }
  let left = fault.after;
  target.on("data", (piece: Buffer) => {
    if (left > 0) socket.write(piece.subarray(0, left));
    left -= piece.byteLength;
    if (left <= 0 && fault.kind === "cut") socket.destroy();
  });
}

/** `reader` with other bytes. */
export function changedReader(reader: BlobReader, change: (bytes: Buffer) => Buffer): BlobReader {
  return {
    size: reader.size,
    async *stream(start, end, options) {
      const pieces: Uint8Array[] = [];
      for await (const piece of reader.stream(start, end, options)) pieces.push(piece);
      yield change(Buffer.concat(pieces));
    },
    close: () => reader.close(),
    [Symbol.asyncDispose]: () => reader.close(),
  };
}
