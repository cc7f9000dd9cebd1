import {
  createBlobGrpcService,
  createDirectoryGrpcService,
  createGrpcServer,
  type GrpcServer,
  type LocalStore,
} from "@castore/castore";
import { createPathInfoGrpcService } from "./grpc-path-info-handlers.ts";
import type { ListenAddress, Log } from "./http-server.ts";
import type { LocalPathInfoService } from "./local-path-info-service.ts";
import { calculateNar } from "./nar-render.ts";
import type { StoreDir } from "./store-path.ts";

export interface CacheGrpcServerOptions {
  readonly store: LocalStore;
  readonly pathInfos: LocalPathInfoService;
  readonly storeDir: StoreDir;
  readonly log: Log;
}

/** snix's services over a local store (docs/grpc.md). A path info that is put is checked first. */
export function createCacheGrpcServer(options: CacheGrpcServerOptions): GrpcServer {
  const { store, pathInfos, storeDir, log } = options;
  return createGrpcServer({
    services: [
      createBlobGrpcService(store.blobs),
      createDirectoryGrpcService(store.directories),
      createPathInfoGrpcService({
        pathInfos,
        storeDir,
        calculateNar: (node, call) => calculateNar(node, store, call),
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
