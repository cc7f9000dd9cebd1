import type { Node } from "@castore/castore";
import type { ContentAddress } from "../nix/content-address.ts";
import type { NarInfo } from "../nix/nar-info.ts";
import type { NarHash } from "../nix/nix-hash.ts";
import type { Signature } from "../nix/signature.ts";
import type { RootSignature } from "../nix/signed-root.ts";
import type { StoreDir, StorePath } from "../nix/store-path.ts";

/** What is known of a store path: its root node beside what a narinfo says of it. */
export interface PathInfo {
  readonly storeDir: StoreDir;
  readonly storePath: StorePath;
  readonly node: Node;
  readonly narHash: NarHash;
  /** Bytes of the NAR. */
  readonly narSize: number;
  /** May include the store path itself. */
  readonly references: readonly StorePath[];
  /** The derivation: its name ends in .drv. */
  readonly deriver?: StorePath | undefined;
  readonly signatures: readonly Signature[];
  readonly ca?: ContentAddress | undefined;
  /** Who vouches for `node` being the path's root. */
  readonly rootSignatures: readonly RootSignature[];
}

/** What `narInfo` says, with the root node that its NAR is of. */
export function pathInfoOf(
  narInfo: NarInfo,
  node: Node,
  rootSignatures: readonly RootSignature[] = [],
): PathInfo {
  const { storeDir, storePath, narHash, narSize, references, deriver, signatures, ca } = narInfo;
  return {
    storeDir,
    storePath,
    node,
    narHash,
    narSize,
    references,
    deriver,
    signatures,
    ca,
    rootSignatures,
  };
}

/** The narinfo of a path whose NAR is served without compression at `url`. */
export function narInfoOf(pathInfo: PathInfo, url: string): NarInfo {
  const { node: _node, rootSignatures: _rootSignatures, ...shared } = pathInfo;
  return { ...shared, url, compression: "none", quirks: [] };
}
