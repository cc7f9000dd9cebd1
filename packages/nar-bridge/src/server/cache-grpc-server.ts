import {
  type ChunkIndex,
  createBlobGrpcService,
  createDirectoryGrpcService,
  createGrpcServer,
  type GrpcServer,
} from "@castore/castore";
import type { Log } from "../log.ts";
import type { NarServices } from "../nar/nar-layout.ts";
import { calculateNar } from "../nar/nar-render.ts";
import type { StoreDir } from "../nix/store-path.ts";
import { createPathInfoGrpcService } from "../path-infos/grpc-path-info-handlers.ts";
import type { PathInfoService } from "../path-infos/path-info-service.ts";
import type { ListenAddress } from "./http-server.ts";

export interface CacheGrpcServerOptions {
  readonly services: NarServices;
  /** Serves chunks of blobs that `services.blobs` does not find by themselves. */
  readonly chunks?: ChunkIndex | undefined;
  readonly pathInfos: PathInfoService;
  readonly storeDir: StoreDir;
  readonly log: Log;
}

/** snix's services (docs/grpc.md). */
export function createCacheGrpcServer(options: CacheGrpcServerOptions): GrpcServer {
  const { services, chunks, pathInfos, storeDir, log } = options;
  return createGrpcServer({
    services: [
      createBlobGrpcService(services.blobs, { chunks }),
      createDirectoryGrpcService(services.directories),
      createPathInfoGrpcService({
        pathInfos,
        storeDir,
        calculateNar: (node, call) => calculateNar(node, services, call),
      }),
    ],
    onError: (error, path) => log(`${path}: ${error instanceof Error ? error.stack : error}`),
  });
}

/** Listens at `address` and resolves with the service URL that leads there. */
export async function listenGrpc(server: GrpcServer, address: ListenAddress): Promise<string> {
  if ("path" in address) {
    await server.listen(`unix:${address.path}`);
    return `grpc+unix:${address.path}`;
  }
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  return `grpc+http://${host}:${await server.listen(`${host}:${address.port}`)}`;
}
