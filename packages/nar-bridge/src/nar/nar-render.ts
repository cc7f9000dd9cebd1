import { createHash } from "node:crypto";
import {
  type CallOptions,
  type DirectoryService,
  type Node,
  PiecePool,
  type StreamOptions,
} from "@castore/castore";
import { type NarHash, narHashOf } from "../nix/nix-hash.ts";
import { createNarLayout, type NarServices } from "./nar-layout.ts";
import { loadNarTree, measureNar } from "./nar-tree.ts";

/** The NAR of `root`; errors as of createNarLayout and NarLayout.stream. */
export async function* renderNar(
  root: Node,
  services: NarServices,
  options: StreamOptions = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  const layout = await createNarLayout(root, services, options);
  yield* layout.stream(0, layout.size, options);
}

/** Bytes of the NAR of `root`, without a look at blobs. Rejects INCOMPLETE or EXHAUSTED. */
export async function narSizeOf(
  root: Node,
  directories: DirectoryService,
  options: CallOptions = {},
): Promise<number> {
  const { literalBytes, contentBytes } = measureNar(await loadNarTree(root, directories, options));
  return literalBytes + contentBytes;
}

/** What names a NAR. */
export interface NarIdentity {
  readonly narHash: NarHash;
  /** Bytes. */
  readonly narSize: number;
}

/** Renders the NAR of `root` to name it; errors as of renderNar. */
export async function calculateNar(
  root: Node,
  services: NarServices,
  options: CallOptions = {},
): Promise<NarIdentity> {
  const hash = createHash("sha256");
  const pool = new PiecePool();
  let narSize = 0;
  for await (const piece of renderNar(root, services, { ...options, pool })) {
    hash.update(piece);
    narSize += piece.byteLength;
    pool.give(piece);
  }
  return { narHash: narHashOf(hash.digest()), narSize };
}
