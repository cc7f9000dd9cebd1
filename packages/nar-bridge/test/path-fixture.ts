import { spawnSync } from "node:child_process";
import { createHash, generateKeyPairSync } from "node:crypto";
import type { StandInCache } from "../../../test/support/stand-in-cache.ts";
import { type Compression, compress } from "../src/compression/compression.ts";
import { type ContentAddress, contentAddressedPath } from "../src/nix/content-address.ts";
import { SecretKey } from "../src/nix/ed25519-key.ts";
import { formatFingerprint } from "../src/nix/fingerprint.ts";
import type { NarInfo } from "../src/nix/nar-info.ts";
import { formatNarInfo } from "../src/nix/nar-info-text.ts";
import { narHashOf, nixHashDigits, nixHashOf } from "../src/nix/nix-hash.ts";
import { signFingerprint } from "../src/nix/signature.ts";
import {
  NIX_STORE_DIR,
  type StorePath,
  storePathHash,
  storePathOf,
} from "../src/nix/store-path.ts";
import { encodeNar, gather, type Tree } from "./nar-fixture.ts";

export const SECRET_KEY = generateSecretKey("test-1");
export const OTHER_SECRET_KEY = generateSecretKey("other-1");

export function generateSecretKey(name: string): SecretKey {
  return SecretKey.parse(generateSecretKeyText(name));
}

/** As `nix-store --generate-binary-cache-key` writes it. */
export function generateSecretKeyText(name: string): string {
  const { d = "", x = "" } = generateKeyPairSync("ed25519").privateKey.export({ format: "jwk" });
  const bytes = Buffer.concat([Buffer.from(d, "base64url"), Buffer.from(x, "base64url")]);
  return `${name}:${bytes.toString("base64")}`;
}

/** A store path with contents, and what a cache says of it. */
export interface TestPath {
  readonly narInfo: NarInfo;
  readonly text: string;
  readonly nar: Buffer;
  /** The NAR as the cache serves it. */
  readonly file: Buffer;
  /** Where the bridge serves it, with a slash before it. */
  readonly bridged: string;
}

export interface TestPathOptions {
  readonly compression?: Compression;
  /** The path itself is referred to as "self". */
  readonly references?: readonly (StorePath | "self")[];
  readonly keys?: readonly SecretKey[];
  readonly change?: Partial<NarInfo>;
  readonly nar?: Buffer;
}

export function storePathNamed(name: string): StorePath {
  return storePathOf(createHash("sha1").update(name).digest(), name);
}

export async function makePath(
  name: string,
  tree: Tree,
  options: TestPathOptions = {},
): Promise<TestPath> {
  const { compression = "none", keys = [SECRET_KEY], change = {} } = options;
  const nar = options.nar ?? encodeNar(tree);
  const file = await pack(compression, nar);
  const storePath = change.storePath ?? storePathNamed(name);
  const sha256 = (bytes: Buffer) => createHash("sha256").update(bytes).digest();
  const fileHash = nixHashOf("sha256", sha256(file));
  const suffix = SUFFIXES[compression];
  const unsigned: NarInfo = {
    storeDir: NIX_STORE_DIR,
    storePath,
    url: `nar/${nixHashDigits(fileHash)}.nar${suffix}`,
    compression,
    fileHash,
    fileSize: file.byteLength,
    narHash: narHashOf(sha256(nar)),
    narSize: nar.byteLength,
    references: (options.references ?? []).map((path) => (path === "self" ? storePath : path)),
    signatures: [],
    quirks: [],
    ...change,
  };
  const fingerprint = formatFingerprint(unsigned);
  const signatures = keys.map((key) => signFingerprint(key, fingerprint));
  const narInfo = { ...unsigned, signatures };
  const { narHash } = narInfo;
  const bridged = `/nar/${storePathHash(storePath)}-${nixHashDigits(narHash)}.nar`;
  return { narInfo, text: formatNarInfo(narInfo), nar, file, bridged };
}

const SUFFIXES: Readonly<Record<Compression, string>> = {
  ...{ none: "", xz: ".xz", zstd: ".zst", gzip: ".gz", bzip2: ".bz2", br: ".br" },
};

export async function pack(compression: Compression, contents: Buffer): Promise<Buffer> {
  if (compression !== "bzip2") return gather(compress(compression, [contents], { level: 1 }));
  const options = { input: contents, maxBuffer: 1 << 28 };
  return spawnSync("bzip2", ["-c", "-1"], options).stdout;
}

/** The store path of contents whose CA is `ca`. */
export function pathOfCa(name: string, ca: ContentAddress): StorePath {
  return contentAddressedPath({
    ...{ storeDir: NIX_STORE_DIR, name, ca, references: [], refersToItself: false },
  });
}

export function narInfoPath({ narInfo }: TestPath): string {
  return `/${storePathHash(narInfo.storePath)}.narinfo`;
}

/** Puts the path into the cache; the same file may serve several. */
export function publish(cache: StandInCache, ...paths: readonly TestPath[]): void {
  for (const path of paths) {
    cache.objects.set(narInfoPath(path), path.text);
    cache.objects.set(`/${path.narInfo.url}`, path.file);
  }
}
