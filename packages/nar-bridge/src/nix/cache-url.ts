import { formatEntryText, isCastoreError, type Node, parseEntryText } from "@castore/castore";
import { type NarHash, narHashOfDigits, nixHashDigits } from "./nix-hash.ts";
import { isStoreHash, type StoreHash } from "./store-path.ts";

/** A NAR by its hash, in the last part of a cache's URL: `<52 digits>.nar<suffix>`. */
export interface NarFile {
  readonly narHash: NarHash;
  /** "" or the suffix of a compression, such as ".xz". */
  readonly suffix: string;
}

/** Parses `<52 digits>.nar<suffix>`; undefined where it is something else. */
export function parseNarFile(text: string): NarFile | undefined {
  const [, digits = "", suffix = ""] = /^([^.]{52})\.nar(\.[a-z0-9]+)?$/.exec(text) ?? [];
  const narHash = narHashOf(digits);
  return narHash && { narHash, suffix };
}

function narHashOf(digits: string): NarHash | undefined {
  if (digits.length !== 52) return undefined;
  try {
    return narHashOfDigits(digits);
  } catch (error) {
    if (isCastoreError(error, "INVALID")) return undefined;
    throw error;
  }
}

/** What a cache has at the top by a path's store hash: `<32 digits>.narinfo` or `.ls`. */
export interface StoreHashFile {
  readonly storeHash: StoreHash;
  readonly type: "narinfo" | "listing";
}

/** Parses `<32 digits>.narinfo` and `<32 digits>.ls`; undefined where it is something else. */
export function parseStoreHashFile(text: string): StoreHashFile | undefined {
  const storeHash = text.slice(0, 32);
  if (!isStoreHash(storeHash)) return undefined;
  const suffix = text.slice(32);
  if (suffix === ".narinfo") return { storeHash, type: "narinfo" };
  return suffix === ".ls" ? { storeHash, type: "listing" } : undefined;
}

/** A NAR as the bridge names it: whoever serves it must find it again by these two alone. */
export interface BridgedNar {
  readonly storeHash: StoreHash;
  readonly narHash: NarHash;
}

/** `nar/<store hash>-<52 digits>.nar` */
export function formatBridgedNarUrl({ storeHash, narHash }: BridgedNar): string {
  return `nar/${storeHash}-${nixHashDigits(narHash)}.nar`;
}

/** Parses what `formatBridgedNarUrl` wrote; undefined where it is something else. */
export function parseBridgedNarUrl(url: string): BridgedNar | undefined {
  const [, storeHash = "", digits = ""] = /^nar\/([^-]{32})-([^.]{52})\.nar$/.exec(url) ?? [];
  const narHash = narHashOf(digits);
  return narHash !== undefined && isStoreHash(storeHash) ? { storeHash, narHash } : undefined;
}

/** A NAR by its root node, as snix's nar-bridge names it. */
export interface SnixNar {
  readonly node: Node;
  /** As the URL says; unproven. */
  readonly narSize: number;
}

/** `nar/snix-castore/<ENTRY>?narsize=<bytes>` */
export function formatSnixNarUrl({ node, narSize }: SnixNar): string {
  return `nar/snix-castore/${formatEntryText(node)}?narsize=${narSize}`;
}

/** Parses what `formatSnixNarUrl` wrote; undefined where it is something else. */
export function parseSnixNarUrl(url: string): SnixNar | undefined {
  const match = /^nar\/snix-castore\/([^/?]+)\?narsize=(\d{1,16})$/.exec(url);
  const [, entry = "", size = ""] = match ?? [];
  if (match === null || !Number.isSafeInteger(Number(size))) return undefined;
  try {
    return { node: parseEntryText(entry), narSize: Number(size) };
  } catch (error) {
    if (isCastoreError(error, "INVALID")) return undefined;
    throw error;
  }
}
