import type { NarHash } from "./nix-hash.ts";
import { formatStorePath, type StoreDir, type StorePath } from "./store-path.ts";

/** What a signature vouches for: the part of a narinfo or a path info that it covers. */
export interface Fingerprinted {
  readonly storeDir: StoreDir;
  readonly storePath: StorePath;
  readonly narHash: NarHash;
  readonly narSize: number;
  readonly references: readonly StorePath[];
}

/** The text that is signed, with the references sorted and each once, as Nix does it. */
export function formatFingerprint(path: Fingerprinted): string {
  return fingerprintOf(path, [...new Set(path.references)].sort());
}

/**
 * The texts that a signature may be of: old caches signed the references in the order in which
 * they sent them. One text where that is the sorted order.
 */
export function acceptedFingerprints(path: Fingerprinted): readonly string[] {
  const sorted = formatFingerprint(path);
  const asSent = fingerprintOf(path, path.references);
  return sorted === asSent ? [sorted] : [sorted, asSent];
}

function fingerprintOf(path: Fingerprinted, references: readonly StorePath[]): string {
  const { storeDir, storePath, narHash, narSize } = path;
  const paths = references.map((reference) => formatStorePath(reference, storeDir)).join(",");
  return `1;${formatStorePath(storePath, storeDir)};${narHash};${narSize};${paths}`;
}
