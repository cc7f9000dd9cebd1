import { createHash } from "node:crypto";
import { CastoreError } from "@castore/castore";
import { type NixHash, nixHashAlgorithm, nixHashBytes, parseNixHash } from "./nix-hash.ts";
import {
  formatStorePath,
  isStorePathName,
  STORE_HASH_BYTES,
  type StoreDir,
  type StorePath,
  storePathName,
  storePathOf,
} from "./store-path.ts";

/**
 * What a content-addressed store path is named by: `nar` the hash of its NAR (with its own hash
 * part blanked out where it refers to itself), `flat` the hash of a regular file's bytes, `text`
 * the sha256 of a regular file that may refer to other paths.
 */
export interface ContentAddress {
  readonly method: "nar" | "flat" | "text";
  readonly hash: NixHash;
}

/** Parses a narinfo's CA: `fixed:r:HASH`, `fixed:HASH` or `text:sha256:…`. Rejects INVALID. */
export function parseContentAddress(text: string): ContentAddress {
  if (text.startsWith("fixed:r:")) return { method: "nar", hash: parseHash(text, 8) };
  if (text.startsWith("fixed:")) return { method: "flat", hash: parseHash(text, 6) };
  if (!text.startsWith("text:")) throw invalid(text, "want fixed:r:, fixed: or text:");
  const hash = parseHash(text, 5);
  if (nixHashAlgorithm(hash) !== "sha256") throw invalid(text, "a text is named by its sha256");
  return { method: "text", hash };
}

function parseHash(text: string, prefixLength: number): NixHash {
  try {
    return parseNixHash(text.slice(prefixLength));
  } catch (cause) {
    throw invalid(text, "no hash at its end", cause);
  }
}

const PREFIXES = { nar: "fixed:r:", flat: "fixed:", text: "text:" } as const;

export function formatContentAddress(ca: ContentAddress): string {
  return PREFIXES[ca.method] + ca.hash;
}

/** What a store path is recomputed from. */
export interface ContentAddressed {
  readonly storeDir: StoreDir;
  readonly name: string;
  readonly ca: ContentAddress;
  /** The paths it refers to, itself not among them. */
  readonly references: readonly StorePath[];
  readonly refersToItself: boolean;
}

/**
 * The store path that Nix gives to such contents. Rejects INVALID for a name or references that
 * such an address cannot have.
 */
export function contentAddressedPath(path: ContentAddressed): StorePath {
  const type = pathType(path);
  if (type === undefined || !isStorePathName(path.name)) {
    const fault = type === undefined ? "cannot have these references" : "not a store path's name";
    throw invalid(formatContentAddress(path.ca), `${JSON.stringify(path.name)}: ${fault}`);
  }
  const text = `${type}:sha256:${innerHex(path.ca)}:${path.storeDir}:${path.name}`;
  return storePathOf(foldHash(createHash("sha256").update(text).digest()), path.name);
}

/** What the hash of the path begins with; undefined where it cannot have these references. */
function pathType({ ca, references, storeDir, refersToItself }: ContentAddressed) {
  const kind = isSource(ca) ? "source" : ca.method === "text" ? "text" : undefined;
  if (kind === undefined) {
    return references.length > 0 || refersToItself ? undefined : "output:out";
  }
  if (kind === "text" && refersToItself) return undefined;
  const sorted = [...new Set(references)].sort();
  const parts = [kind, ...sorted.map((reference) => formatStorePath(reference, storeDir))];
  if (refersToItself) parts.push("self");
  return parts.join(":");
}

function isSource({ method, hash }: ContentAddress): boolean {
  return method === "nar" && nixHashAlgorithm(hash) === "sha256";
}

function innerHex(ca: ContentAddress): string {
  const hex = nixHashBytes(ca.hash).toString("hex");
  if (ca.method === "text" || isSource(ca)) return hex;
  const recursive = ca.method === "nar" ? "r:" : "";
  const text = `fixed:out:${recursive}${nixHashAlgorithm(ca.hash)}:${hex}:`;
  return createHash("sha256").update(text).digest("hex");
}

/** XORs all bytes into the 20 of a store hash. */
function foldHash(hash: Uint8Array): Uint8Array {
  const folded = new Uint8Array(STORE_HASH_BYTES);
  hash.forEach((byte, index) => {
    folded[index % STORE_HASH_BYTES] = (folded[index % STORE_HASH_BYTES] ?? 0) ^ byte;
  });
  return folded;
}

/** A path that may be content-addressed, such as a narinfo or a path info. */
export interface MaybeContentAddressed {
  readonly storeDir: StoreDir;
  readonly storePath: StorePath;
  readonly references: readonly StorePath[];
  readonly ca?: ContentAddress | undefined;
}

/**
 * Whether the store path follows from its CA and references, so that it needs no signature. The
 * contents must still be checked against the CA's hash when they are there.
 */
export function isContentAddressed(path: MaybeContentAddressed): boolean {
  const { storeDir, storePath, ca } = path;
  if (ca === undefined) return false;
  const name = storePathName(storePath);
  const references = path.references.filter((reference) => reference !== storePath);
  const refersToItself = references.length < path.references.length;
  const addressed = { storeDir, name, ca, references, refersToItself };
  return pathType(addressed) !== undefined && storePath === contentAddressedPath(addressed);
}

function invalid(text: string, fault: string, cause?: unknown): CastoreError {
  const shown = JSON.stringify(text.slice(0, 200));
  return new CastoreError("INVALID", `content address ${shown}: ${fault}`, { cause });
}
