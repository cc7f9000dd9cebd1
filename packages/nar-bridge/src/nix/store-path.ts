import { CastoreError } from "@castore/castore";
import { decodeNixbase32, encodeNixbase32 } from "./nixbase32.ts";

declare const storeDirBrand: unique symbol;
declare const storeHashBrand: unique symbol;
declare const storePathBrand: unique symbol;

/** The directory of a store: absolute, without a trailing slash. */
export type StoreDir = string & { readonly [storeDirBrand]: true };

/** The 32 nixbase32 digits that a store path starts with: what narinfos are asked for by. */
export type StoreHash = string & { readonly [storeHashBrand]: true };

/** A path in a store, without the directory: `<store hash>-<name>`. */
export type StorePath = string & { readonly [storePathBrand]: true };

export const NIX_STORE_DIR = "/nix/store" as StoreDir;

/** Digits in a store hash. */
export const STORE_HASH_LENGTH = 32;

/** Bytes that a store hash stands for. */
export const STORE_HASH_BYTES = 20;

/** Most characters of a store path's name. */
export const STORE_PATH_NAME_LENGTH_MAX = 211;

const STORE_HASH = /^[0-9abcdfghijklmnpqrsvwxyz]{32}$/;
const NAME = /^[0-9A-Za-z+\-._?=]{1,211}$/;

/** Why a text is no store path, in snix's words. */
export type StorePathFault = "Length" | "DigestEncoding" | "MissingDash" | "InvalidName";

/** Undefined where `text` is a store path. */
export function storePathFault(text: string): StorePathFault | undefined {
  if (text.length < STORE_HASH_LENGTH + 2) return "Length";
  if (!STORE_HASH.test(text.slice(0, STORE_HASH_LENGTH))) return "DigestEncoding";
  if (text[STORE_HASH_LENGTH] !== "-") return "MissingDash";
  return NAME.test(text.slice(STORE_HASH_LENGTH + 1)) ? undefined : "InvalidName";
}

const WANTED: Readonly<Record<StorePathFault, string>> = {
  Length: "want 32 digits, a dash and a name",
  DigestEncoding: "it does not start with 32 nixbase32 digits",
  MissingDash: "want a dash after the 32 digits",
  InvalidName: "the name is not 1 to 211 of A to Z, a to z, 0 to 9 and + - . _ ? =",
};

/** Parses `<store hash>-<name>`. Rejects INVALID. */
export function parseStorePath(text: string): StorePath {
  const fault = storePathFault(text);
  if (fault !== undefined) throw invalid(text, `${fault}: ${WANTED[fault]}`);
  return text as StorePath;
}

/** Whether `name` may be the name of a store path. */
export function isStorePathName(name: string): boolean {
  return NAME.test(name);
}

/** The store path of 20 bytes and a name. Rejects INVALID. */
export function storePathOf(hash: Uint8Array, name: string): StorePath {
  return parseStorePath(`${storeHashOf(hash)}-${name}`);
}

/** A store path and what follows it inside. */
export interface StorePathLocation {
  readonly storePath: StorePath;
  /** Without a slash before it; "" for the store path itself. */
  readonly subPath: string;
}

/**
 * Parses an absolute path below `storeDir`, which may go on below the store path. Rejects INVALID.
 */
export function parseStoreLocation(path: string, storeDir = NIX_STORE_DIR): StorePathLocation {
  if (!path.startsWith(`${storeDir}/`)) throw invalid(path, `MissingStoreDir: not in ${storeDir}`);
  const rest = path.slice(storeDir.length + 1);
  const slash = rest.indexOf("/");
  if (slash < 0) return { storePath: parseStorePath(rest), subPath: "" };
  return { storePath: parseStorePath(rest.slice(0, slash)), subPath: rest.slice(slash + 1) };
}

/** Parses the absolute path of a store path in `storeDir`, exactly. Rejects INVALID. */
export function parseAbsoluteStorePath(path: string, storeDir = NIX_STORE_DIR): StorePath {
  if (!path.startsWith(`${storeDir}/`)) throw invalid(path, `MissingStoreDir: not in ${storeDir}`);
  return parseStorePath(path.slice(storeDir.length + 1));
}

/** The absolute path of `storePath`. */
export function formatStorePath(storePath: StorePath, storeDir: StoreDir): string {
  return `${storeDir}/${storePath}`;
}

export function storePathHash(storePath: StorePath): StoreHash {
  return storePath.slice(0, STORE_HASH_LENGTH) as StoreHash;
}

export function storePathName(storePath: StorePath): string {
  return storePath.slice(STORE_HASH_LENGTH + 1);
}

export function isStoreHash(text: string): text is StoreHash {
  return STORE_HASH.test(text);
}

/** Parses 32 nixbase32 digits. Rejects INVALID. */
export function parseStoreHash(text: string): StoreHash {
  if (!isStoreHash(text)) {
    throw new CastoreError(
      "INVALID",
      `store hash ${JSON.stringify(text.slice(0, 64))}: want 32 nixbase32 digits`,
    );
  }
  return text;
}

/** The store hash of 20 bytes. Rejects INVALID on another length. */
export function storeHashOf(bytes: Uint8Array): StoreHash {
  if (bytes.byteLength !== STORE_HASH_BYTES) {
    throw new CastoreError("INVALID", `store hash of ${bytes.byteLength} bytes: want 20`);
  }
  return encodeNixbase32(bytes) as StoreHash;
}

/** The 20 bytes of `hash`, freshly allocated. */
export function storeHashBytes(hash: StoreHash): Buffer {
  return decodeNixbase32(hash);
}

/** Parses the directory of a store: absolute, normal, without a trailing slash. Rejects INVALID. */
export function parseStoreDir(text: string): StoreDir {
  const parts = text.split("/").slice(1);
  const normal = text.startsWith("/") && parts.every((part) => !/^\.{0,2}$/.test(part));
  // biome-ignore lint/suspicious/noControlCharactersInRegex: it refuses them
  if (!normal || /[\u0000-\u001f\u007f]/.test(text)) {
    throw new CastoreError(
      "INVALID",
      `store directory ${JSON.stringify(text.slice(0, 256))}: want an absolute, normal path`,
    );
  }
  return text as StoreDir;
}

function invalid(text: string, fault: string): CastoreError {
  return new CastoreError("INVALID", `store path ${JSON.stringify(text.slice(0, 300))}: ${fault}`);
}
