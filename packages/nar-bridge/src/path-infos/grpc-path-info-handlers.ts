import {
  type CallOptions,
  CastoreError,
  decodeEntryLenient,
  type GrpcService,
  GrpcStatusError,
  type Node,
  sendingMethod,
  grpcStatus as status,
  unaryMethod,
} from "@castore/castore";
import { nixHashBytes } from "../nix/nix-hash.ts";
import { NIX_STORE_DIR, STORE_HASH_BYTES, type StoreDir, storeHashOf } from "../nix/store-path.ts";
import {
  calculateNarMethod,
  PATH_INFO_SERVICE_NAME,
  pathInfoGetMethod,
  pathInfoListMethod,
  pathInfoPutMethod,
} from "./grpc-path-info-methods.ts";
import type { NarSummary } from "./local-path-info-service.ts";
import type { PathInfo } from "./path-info.ts";
import { decodePathInfo, encodePathInfo } from "./path-info-codec.ts";
import type { PathInfoService } from "./path-info-service.ts";

export interface PathInfoGrpcOptions {
  readonly pathInfos: PathInfoService;
  /** Renders the NAR of `node` to learn its size and hash. Rejects where contents are missing. */
  readonly calculateNar: (node: Node, options: CallOptions) => Promise<NarSummary>;
  readonly storeDir?: StoreDir | undefined;
}

/** Offers path infos as snix.store.v1.PathInfoService. */
export function createPathInfoGrpcService(options: PathInfoGrpcOptions): GrpcService {
  const { pathInfos, calculateNar, storeDir = NIX_STORE_DIR } = options;
  return {
    name: PATH_INFO_SERVICE_NAME,
    methods: [
      unaryMethod(pathInfoGetMethod, async (hash, { signal }) => {
        if (hash === undefined) throw new GrpcStatusError(status.UNIMPLEMENTED, "invalid by_what");
        if (hash.byteLength !== STORE_HASH_BYTES) {
          throw new GrpcStatusError(status.INVALID_ARGUMENT, "invalid output hash length");
        }
        const get = pathInfos.get(storeHashOf(hash), { signal });
        const pathInfo = await get.catch(failWith(status.UNKNOWN));
        if (pathInfo !== undefined) return encodePathInfo(pathInfo);
        throw new GrpcStatusError(status.NOT_FOUND, "PathInfo not found");
      }),
      unaryMethod(pathInfoPutMethod, async (bytes, { signal }) => {
        const put = pathInfos.put(decode(bytes, storeDir), { signal });
        return encodePathInfo(await put.catch(failWith(status.UNKNOWN)));
      }),
      unaryMethod(calculateNarMethod, async (bytes, { signal }) => {
        const calculation = calculateNar(decodeRoot(bytes), { signal });
        const { narSize, narHash } = await calculation.catch(failWith(status.UNKNOWN));
        return { narSize, narSha256: nixHashBytes(narHash) };
      }),
      sendingMethod(pathInfoListMethod, async function* (_, { signal }) {
        try {
          for await (const pathInfo of pathInfos.list({ signal })) yield encodePathInfo(pathInfo);
        } catch (error) {
          failWith(status.INTERNAL)(error);
        }
      }),
    ],
  };
}

function decode(bytes: Uint8Array, storeDir: StoreDir): PathInfo {
  try {
    return decodePathInfo(bytes, storeDir);
  } catch (cause) {
    if (!(cause instanceof CastoreError)) throw cause;
    const details = `Invalid path info: ${cause.message}`;
    throw new GrpcStatusError(status.INVALID_ARGUMENT, details, { cause });
  }
}

function decodeRoot(bytes: Uint8Array): Node {
  try {
    const { name, node } = decodeEntryLenient(bytes);
    if (name === "") return node;
  } catch (cause) {
    throw new GrpcStatusError(status.INVALID_ARGUMENT, "invalid root node", { cause });
  }
  throw new GrpcStatusError(status.INVALID_ARGUMENT, "invalid root node");
}

/** snix answers one status for all that a backend rejects with. */
function failWith(code: GrpcStatusError["status"]): (error: unknown) => never {
  return (cause) => {
    if (!(cause instanceof CastoreError)) throw cause;
    throw new GrpcStatusError(code, cause.message, { cause });
  };
}
