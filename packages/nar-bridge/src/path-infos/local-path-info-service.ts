import {
  type CallOptions,
  CastoreError,
  type LocalStore,
  type Node,
  nodesEqual,
  type RootRecord,
} from "@castore/castore";
import type { NarHash } from "../nix/nix-hash.ts";
import { TrustedRootKeys } from "../nix/signed-root.ts";
import { isStoreHash, type StoreHash, storePathHash } from "../nix/store-path.ts";
import { type BarredRootKey, BarredRootKeys } from "./barred-root-keys.ts";
import type { PathInfo } from "./path-info.ts";
import type { PathInfoService } from "./path-info-service.ts";
import {
  decodeStoredPathInfo,
  encodeStoredPathInfo,
  type StoredPathInfo,
} from "./stored-path-info.ts";

/** The table of a local store that maps a NarHash to the root whose NAR it was found to be of. */
const NAR_TABLE = "nar-hashes";

/** A NAR's hash and size. */
export interface NarSummary {
  readonly narHash: NarHash;
  readonly narSize: number;
}

/** A root node and the hash and size that its NAR was found to have. */
export interface ProvenNar extends NarSummary {
  readonly node: Node;
}

/** Path infos in a local store, with how each root was proven and where it came from. */
export interface LocalPathInfoService extends PathInfoService {
  /**
   * Stores `pathInfo` as `rendered`: its NAR is calculated unless it is known. Rejects INCOMPLETE
   * and CORRUPT as PathInfoService says.
   */
  put(pathInfo: PathInfo, options?: CallOptions): Promise<PathInfo>;
  /** What is stored under `storeHash`, as `get`, and notes that it was used. */
  getStored(storeHash: StoreHash, options?: CallOptions): Promise<StoredPathInfo | undefined>;
  /**
   * Stores path infos whose proof the caller has: all or none, durable when resolved. What a
   * rendered NAR already proves is not stored as vouched for; whoever vouched for another root of
   * the same NAR is barred. Rejects INCOMPLETE where a root node is not in the store.
   */
  putStored(pathInfos: readonly StoredPathInfo[], options?: CallOptions): Promise<void>;
  listStored(options?: CallOptions): AsyncIterable<StoredPathInfo>;
  /** The root whose NAR was found to have `narHash`, while it is in the store. */
  findNar(narHash: NarHash): ProvenNar | undefined;
  /** Notes NARs that were rendered or read whole. Durable when resolved; keeps no root alive. */
  putNars(nars: readonly ProvenNar[]): Promise<void>;
  /** The root keys whose word counts now. */
  rootKeys(): TrustedRootKeys;
  /**
   * Renders the NAR of a path whose root is vouched for: it is stored as rendered where that
   * matches, else the key is barred and CORRUPT is rejected. Rejects INCOMPLETE where not all of it
   * is in the store.
   */
  proveVouched(stored: StoredPathInfo, options?: CallOptions): Promise<void>;
}

export interface LocalPathInfoOptions {
  /** Renders a node's NAR and hashes it. Rejects INCOMPLETE where something is missing. */
  readonly calculateNar: (node: Node, options?: CallOptions) => Promise<NarSummary>;
  /** Whose word for a root counts: what other keys vouched for is as if it were not there. */
  readonly rootKeys?: TrustedRootKeys | undefined;
  /** Told of a root key that is no longer believed in this store. */
  readonly onBarred?: ((barred: BarredRootKey) => void) | undefined;
}

/** The path infos of `store`, which stays the caller's to close. */
export function createLocalPathInfoService(
  store: LocalStore,
  options: LocalPathInfoOptions,
): LocalPathInfoService {
  const nars = store.table(NAR_TABLE);
  const rootKeys = options.rootKeys ?? TrustedRootKeys.parse([]);
  const barred = new BarredRootKeys(store, options.onBarred);
  const counts = ({ proof }: StoredPathInfo) =>
    proof.by === "rendered" || (rootKeys.has(proof.key) && !barred.has(proof.key));

  const service: LocalPathInfoService = {
    async get(storeHash, callOptions) {
      return (await service.getStored(storeHash, callOptions))?.pathInfo;
    },
    async put(pathInfo, callOptions) {
      if (!isProven(service, pathInfo)) {
        checkNar(pathInfo, await options.calculateNar(pathInfo.node, callOptions));
      }
      await service.putStored([{ pathInfo, proof: { by: "rendered" } }], callOptions);
      return pathInfo;
    },
    async *list(callOptions) {
      for await (const { pathInfo } of service.listStored(callOptions)) yield pathInfo;
    },
    async getStored(storeHash, callOptions) {
      callOptions?.signal?.throwIfAborted();
      const record = await store.roots.get(storeHash, callOptions);
      const stored = record && decodeRecord(record);
      if (stored === undefined || !counts(stored)) return undefined;
      store.roots.touch(storeHash);
      return stored;
    },
    async putStored(pathInfos, callOptions) {
      callOptions?.signal?.throwIfAborted();
      const proven = pathInfos.map((stored): StoredPathInfo => {
        return isProven(service, stored.pathInfo) ? { ...stored, proof: RENDERED } : stored;
      });
      const rendered = proven.filter(({ proof }) => proof.by === "rendered");
      for (const { pathInfo } of rendered) await barred.compare(pathInfo);
      await store.roots.put(proven.map(recordOf), callOptions);
      await service.putNars(rendered.map(({ pathInfo }) => pathInfo));
    },
    async *listStored(callOptions) {
      callOptions?.signal?.throwIfAborted();
      for await (const record of store.roots.list(callOptions)) {
        if (!isStoreHash(record.key)) continue;
        const stored = decodeRecord(record);
        if (counts(stored)) yield stored;
      }
    },
    findNar(narHash) {
      const row = nars.get(narHash);
      if (row?.node === undefined) return undefined;
      const narSize = Number(Buffer.from(row.value).readBigUInt64BE());
      return { narHash, narSize, node: row.node };
    },
    async putNars(proven) {
      const rows = proven.map(({ narHash, narSize, node }) => {
        const value = Buffer.alloc(8);
        value.writeBigUInt64BE(BigInt(narSize));
        return { key: narHash, node, value };
      });
      if (rows.length > 0) await nars.put(rows);
    },
    rootKeys: () => rootKeys.except((key) => barred.has(key)),
    async proveVouched(stored, callOptions) {
      const { pathInfo, proof } = stored;
      if (proof.by === "rendered") return;
      const nar = await options.calculateNar(pathInfo.node, callOptions);
      try {
        checkNar(pathInfo, nar);
      } catch (error) {
        await barred.bar({ key: proof.key, reason: String(error) });
        throw error;
      }
      await service.putStored([{ ...stored, proof: RENDERED }], callOptions);
    },
  };
  return service;
}

const RENDERED = { by: "rendered" } as const;

/** Whether the NAR of the path's very root is known to have the path's hash and size. */
function isProven(service: LocalPathInfoService, { narHash, narSize, node }: PathInfo): boolean {
  const known = service.findNar(narHash);
  return known !== undefined && known.narSize === narSize && nodesEqual(known.node, node);
}

function checkNar({ storePath, narHash, narSize }: PathInfo, nar: NarSummary): void {
  if (nar.narHash === narHash && nar.narSize === narSize) return;
  const got = `${nar.narHash}, ${nar.narSize} bytes`;
  throw new CastoreError(
    "CORRUPT",
    `${storePath}: its root's NAR has ${got}, want ${narHash}, ${narSize} bytes`,
  );
}

function recordOf(stored: StoredPathInfo): RootRecord {
  const { storePath, node, references } = stored.pathInfo;
  return {
    key: storePathHash(storePath),
    node,
    references: references.map(storePathHash),
    payload: encodeStoredPathInfo(stored),
  };
}

function decodeRecord({ key, payload }: RootRecord): StoredPathInfo {
  try {
    return decodeStoredPathInfo(payload);
  } catch (cause) {
    throw new CastoreError("CORRUPT", `path info ${key} in the local store`, { cause });
  }
}
