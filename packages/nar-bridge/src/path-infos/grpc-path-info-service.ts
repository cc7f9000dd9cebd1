import {
  type CallOptions,
  CastoreError,
  encodeNode,
  type GrpcChannel,
  isGrpcNotFound,
  type Node,
} from "@castore/castore";
import { narHashOf } from "../nix/nix-hash.ts";
import { NIX_STORE_DIR, type StoreDir, storeHashBytes, storePathHash } from "../nix/store-path.ts";
import {
  calculateNarMethod,
  pathInfoGetMethod,
  pathInfoListMethod,
  pathInfoPutMethod,
} from "./grpc-path-info-methods.ts";
import type { NarSummary } from "./local-path-info-service.ts";
import type { PathInfo } from "./path-info.ts";
import { decodePathInfo, encodePathInfo } from "./path-info-codec.ts";
import type { PathInfoService } from "./path-info-service.ts";

/** What a remote server offers beyond PathInfoService. */
export interface GrpcPathInfoService extends PathInfoService {
  /** The server's word for the NAR of `node`, whose contents it must have. */
  calculateNar(node: Node, options?: CallOptions): Promise<NarSummary>;
}

/**
 * The path infos of a server of snix.store.v1.PathInfoService. They have no root signatures, which
 * its messages do not know. The channel stays the caller's.
 */
export function createGrpcPathInfoService(
  channel: GrpcChannel,
  storeDir: StoreDir = NIX_STORE_DIR,
): GrpcPathInfoService {
  return {
    async get(storeHash, options) {
      try {
        const request = storeHashBytes(storeHash);
        const answer = await channel.unary(pathInfoGetMethod, request, options);
        const pathInfo = decode(channel, answer, storeDir);
        if (storePathHash(pathInfo.storePath) === storeHash) return pathInfo;
        const message = `${channel.target}: path info ${storeHash}: is of ${pathInfo.storePath}`;
        throw new CastoreError("CORRUPT", message);
      } catch (error) {
        if (isGrpcNotFound(error)) return undefined;
        throw error;
      }
    },
    async put(pathInfo, options) {
      const request = encodePathInfo(pathInfo);
      const answer = await channel.unary(pathInfoPutMethod, request, options);
      return decode(channel, answer, storeDir);
    },
    async *list(options) {
      for await (const answer of channel.receive(pathInfoListMethod, Buffer.alloc(0), options)) {
        yield decode(channel, answer, storeDir);
      }
    },
    async calculateNar(node, options) {
      const answer = await channel.unary(calculateNarMethod, encodeNode(node), options);
      return { narSize: answer.narSize, narHash: narHashOf(answer.narSha256) };
    },
  };
}

function decode(channel: GrpcChannel, bytes: Uint8Array, storeDir: StoreDir): PathInfo {
  try {
    return decodePathInfo(bytes, storeDir);
  } catch (cause) {
    throw new CastoreError("CORRUPT", `${channel.target}: sent a wrong path info`, { cause });
  }
}
