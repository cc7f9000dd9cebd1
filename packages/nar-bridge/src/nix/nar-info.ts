import type { ContentAddress } from "./content-address.ts";
import type { NarHash, NixHash } from "./nix-hash.ts";
import type { Signature } from "./signature.ts";
import type { StoreDir, StorePath } from "./store-path.ts";

/** Where a narinfo's text departs from what Nix writes today, though every client reads it. */
export type NarInfoQuirk =
  /** No Compression line, which means bzip2. */
  | "no-compression"
  /** No References line, which means none. */
  | "no-references"
  | "references-out-of-order"
  /** NarHash is not in nixbase32. */
  | "nar-hash-form"
  /** `Deriver: unknown-deriver`, which means none. */
  | "unknown-deriver";

/** What a binary cache says of a store path, as a narinfo does. */
export interface NarInfo {
  readonly storeDir: StoreDir;
  readonly storePath: StorePath;
  /** As sent: relative to the cache, or absolute. Not yet admitted (docs/protocol.md). */
  readonly url: string;
  /** As sent, or "bzip2" where the line is missing. "none" is no compression. */
  readonly compression: string;
  readonly fileHash?: NixHash | undefined;
  /** Bytes of the compressed NAR. A client may not rely on it. */
  readonly fileSize?: number | undefined;
  readonly narHash: NarHash;
  /** Bytes of the NAR, > 0. */
  readonly narSize: number;
  /** In the order sent; may include the store path itself. */
  readonly references: readonly StorePath[];
  /** The derivation: its name ends in .drv. */
  readonly deriver?: StorePath | undefined;
  readonly system?: string | undefined;
  /** Every signature, in the order sent. */
  readonly signatures: readonly Signature[];
  readonly ca?: ContentAddress | undefined;
  readonly quirks: readonly NarInfoQuirk[];
}

/**
 * The narinfo of the same path whose NAR is served without compression at `url`, with all that
 * signatures cover, the signatures, deriver, system and CA as they were. Its text is of the plain
 * form that every client reads.
 */
export function narInfoServedAt(narInfo: NarInfo, url: string): NarInfo {
  const { fileHash: _fileHash, fileSize: _fileSize, ...kept } = narInfo;
  return { ...kept, url, compression: "none", quirks: [] };
}
