import { type StoreHash, type StorePath, storePathHash } from "./store-path.ts";

/**
 * What the normal form of a path's blobs replaces: the store hashes of its references and its own,
 * each once, in ascending order (docs/protocol.md, section 6).
 */
export function normalReferences(path: {
  readonly storePath: StorePath;
  readonly references: readonly StorePath[];
}): StoreHash[] {
  return [...new Set([path.storePath, ...path.references].map(storePathHash))].sort();
}
