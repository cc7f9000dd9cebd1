import { CastoreError } from "@castore/castore";
import { formatContentAddress, parseContentAddress } from "./content-address.ts";
import type { NarInfo, NarInfoQuirk } from "./nar-info.ts";
import { parseNarHash, parseNixHash } from "./nix-hash.ts";
import { parseSignature } from "./signature.ts";
import {
  formatStorePath,
  NIX_STORE_DIR,
  parseAbsoluteStorePath,
  parseStorePath,
  type StoreDir,
  type StorePath,
  storePathName,
} from "./store-path.ts";

/** Most bytes of a narinfo. */
export const NAR_INFO_BYTES_MAX = 1 << 20;

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Most Sig lines of a narinfo: each may cost a verification. */
export const NAR_INFO_SIGNATURES_MAX = 64;

/** The keys that are read, in the order in which they are written. */
const KEYS = [
  "StorePath",
  "URL",
  "Compression",
  "FileHash",
  "FileSize",
  "NarHash",
  "NarSize",
  "References",
  "Deriver",
  "System",
  "Sig",
  "CA",
] as const;

type Key = (typeof KEYS)[number];

/**
 * Decodes a narinfo's bytes: lines `Key: value`, each ended by LF, in any order; unknown keys are
 * ignored. Rejects INVALID, naming line and key, for a store path outside `storeDir`, a known key
 * missing or twice (but Sig), an empty value (but References) and a value that does not parse.
 * Rejects EXHAUSTED over NAR_INFO_BYTES_MAX.
 */
export function decodeNarInfo(bytes: Uint8Array, storeDir: StoreDir = NIX_STORE_DIR): NarInfo {
  if (bytes.byteLength > NAR_INFO_BYTES_MAX) {
    throw new CastoreError(
      "EXHAUSTED",
      `narinfo of ${bytes.byteLength} bytes: the limit is ${NAR_INFO_BYTES_MAX}`,
    );
  }
  try {
    return parseNarInfo(UTF8.decode(bytes), storeDir);
  } catch (cause) {
    if (cause instanceof CastoreError) throw cause;
    throw new CastoreError("INVALID", "narinfo: not UTF-8", { cause });
  }
}

/** Parses a narinfo's text, as `decodeNarInfo` does its bytes. */
export function parseNarInfo(text: string, storeDir: StoreDir = NIX_STORE_DIR): NarInfo {
  const fields = parseFields(text);
  const quirks: NarInfoQuirk[] = [];
  const storePath = fields.need("StorePath", (path) => parseAbsoluteStorePath(path, storeDir));
  const compression = fields.take("Compression", (name) => name);
  if (compression === undefined) quirks.push("no-compression");
  const narHash = fields.need("NarHash", (hash) => {
    const parsed = parseNarHash(hash);
    if (parsed !== hash) quirks.push("nar-hash-form");
    return parsed;
  });
  const references = fields.take("References", parseReferences);
  if (references === undefined) quirks.push("no-references");
  else if (!isAscending(references)) quirks.push("references-out-of-order");
  const deriver = fields.take("Deriver", (name) => {
    if (name !== "unknown-deriver") return parseDeriver(name);
    quirks.push("unknown-deriver");
    return undefined;
  });
  return {
    storeDir,
    storePath,
    url: fields.need("URL", parseUrl),
    compression: compression ?? "bzip2",
    fileHash: fields.take("FileHash", parseNixHash),
    fileSize: fields.take("FileSize", parseSize),
    narHash,
    narSize: fields.need("NarSize", parseNarSize),
    references: references ?? [],
    deriver,
    system: fields.take("System", (system) => system),
    signatures: fields.all("Sig", parseSignature),
    ca: fields.take("CA", parseContentAddress),
    quirks,
  };
}

/** The text of `narInfo`, byte for byte what was parsed where that was in the order of KEYS. */
export function formatNarInfo(narInfo: NarInfo): string {
  const { quirks, references, deriver, signatures } = narInfo;
  const noReferences = quirks.includes("no-references") && references.length === 0;
  const noCompression = quirks.includes("no-compression") && narInfo.compression === "bzip2";
  const unknownDeriver = quirks.includes("unknown-deriver") ? "unknown-deriver" : undefined;
  const values: { readonly [key in Key]: readonly (string | number | undefined)[] } = {
    StorePath: [formatStorePath(narInfo.storePath, narInfo.storeDir)],
    URL: [narInfo.url],
    Compression: [noCompression ? undefined : narInfo.compression],
    FileHash: [narInfo.fileHash],
    FileSize: [narInfo.fileSize],
    NarHash: [narInfo.narHash],
    NarSize: [narInfo.narSize],
    References: [noReferences ? undefined : references.join(" ")],
    Deriver: [deriver ?? unknownDeriver],
    System: [narInfo.system],
    Sig: signatures,
    CA: [narInfo.ca && formatContentAddress(narInfo.ca)],
  };
  let text = "";
  for (const key of KEYS) {
    for (const value of values[key]) if (value !== undefined) text += `${key}: ${value}\n`;
  }
  return text;
}

interface Line {
  readonly number: number;
  readonly value: string;
}

/**
 * The lines of a narinfo by key. A value is parsed on the way out, so that faults name its line.
 */
class Fields {
  readonly #lines = new Map<string, Line[]>();

  /** Notes a line. Rejects INVALID where a known key but Sig stands there already. */
  add(key: string, line: Line): void {
    const lines = this.#lines.get(key);
    if (lines === undefined) this.#lines.set(key, [line]);
    else if (key === "Sig" && lines.length < NAR_INFO_SIGNATURES_MAX) lines.push(line);
    else if (key === "Sig") throw invalid(line.number, key, `over ${NAR_INFO_SIGNATURES_MAX}`);
    else if (isKey(key)) throw invalid(line.number, key, "stands there twice");
  }

  all<T>(key: Key, parse: (value: string) => T): readonly T[] {
    return (this.#lines.get(key) ?? []).map(({ number, value }) => {
      if (value === "" && key !== "References") throw invalid(number, key, "is empty");
      try {
        return parse(value);
      } catch (cause) {
        throw invalid(number, key, cause instanceof Error ? cause.message : "", cause);
      }
    });
  }

  take<T>(key: Key, parse: (value: string) => T): T | undefined {
    return this.all(key, parse)[0];
  }

  need<T>(key: Key, parse: (value: string) => T): T {
    const [value] = this.all(key, parse);
    if (value === undefined) throw new CastoreError("INVALID", `narinfo: ${key} is missing`);
    return value;
  }
}

function parseFields(text: string): Fields {
  const fields = new Fields();
  const lines = text.split("\n");
  if (lines.pop() !== "") throw invalid(lines.length + 1, undefined, "not ended by LF");
  lines.forEach((line, index) => {
    const colon = line.indexOf(": ");
    // biome-ignore lint/suspicious/noControlCharactersInRegex: it refuses them
    if (colon < 1 || /[\u0000-\u001f\u007f]/.test(line)) {
      throw invalid(index + 1, undefined, "want Key: value, without control characters");
    }
    fields.add(line.slice(0, colon), { number: index + 1, value: line.slice(colon + 2) });
  });
  return fields;
}

function isKey(key: string): key is Key {
  return KEYS.some((known) => known === key);
}

function parseReferences(value: string): readonly StorePath[] {
  return value.split(" ").filter(Boolean).map(parseStorePath);
}

function isAscending(paths: readonly StorePath[]): boolean {
  return paths.every((path, index) => index === 0 || (paths[index - 1] ?? "") < path);
}

function parseDeriver(value: string): StorePath {
  const path = parseStorePath(value);
  if (!/.\.drv$/.test(storePathName(path))) throw new CastoreError("INVALID", "no .drv at its end");
  return path;
}

function parseUrl(value: string): string {
  if (/\s/.test(value)) throw new CastoreError("INVALID", "a URL has no spaces");
  return value;
}

function parseSize(value: string): number {
  const size = /^\d{1,16}$/.test(value) ? Number(value) : Number.NaN;
  if (!Number.isSafeInteger(size))
    throw new CastoreError("INVALID", "want a count of bytes < 2^53");
  return size;
}

function parseNarSize(value: string): number {
  const size = parseSize(value);
  if (size === 0) throw new CastoreError("INVALID", "no NAR is empty");
  return size;
}

function invalid(number: number, key: string | undefined, fault: string, cause?: unknown) {
  const where = key === undefined ? `line ${number}` : `line ${number}, ${key}`;
  return new CastoreError("INVALID", `narinfo ${where}: ${fault}`, { cause });
}
