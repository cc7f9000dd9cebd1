import { createCipheriv, createHash } from "node:crypto";
import {
  type Compression,
  compress,
  formatNarInfo,
  NIX_STORE_DIR,
  narHashOf,
  nixHashDigits,
  type StorePath,
  storePathOf,
} from "@castore/nar-bridge";

/** A store path whose root is a directory of files. */
export interface StandInPath {
  readonly storePath: StorePath;
  /** Contents by name. */
  readonly files: Readonly<Record<string, Buffer>>;
  readonly references: readonly StorePath[];
}

/** The path that a name and a seed stand for. */
export function standInStorePath(name: string, seed = ""): StorePath {
  return storePathOf(createHash("sha256").update(`${name} ${seed}`).digest().subarray(0, 20), name);
}

/** `size` bytes that no compression makes smaller: the same for the same seed. */
export function noise(size: number, seed: string): Buffer {
  const key = createHash("sha256").update(seed).digest();
  return createCipheriv("aes-256-ctr", key, Buffer.alloc(16)).update(Buffer.alloc(size));
}

/** `size` bytes of made-up prose, which compresses well. */
export function prose(size: number, seed: string): Buffer {
  const words = [..."castore".repeat(8)].map((_, i) => noise(6, `word ${i}`).toString("hex"));
  let text = "";
  for (const byte of noise(Math.ceil(size / 8), seed)) text += `${words[byte % words.length]} `;
  return Buffer.from(text.slice(0, size).padEnd(size));
}

/** The NAR of `files` in one directory. */
export function encodeStandInNar(files: StandInPath["files"]): Buffer {
  const entries = Object.entries(files).sort(([a], [b]) => (a < b ? -1 : 1));
  return Buffer.concat([
    ...narStrings("nix-archive-1", "(", "type", "directory"),
    ...entries.flatMap(([name, contents]) => [
      ...narStrings("entry", "(", "name", name, "node", "("),
      ...narStrings("type", "regular", "contents", contents, ")", ")"),
    ]),
    ...narStrings(")"),
  ]);
}

function narStrings(...strings: readonly (string | Buffer)[]): Buffer[] {
  return strings.map((string) => {
    const data = Buffer.from(string);
    const bytes = Buffer.alloc(8 + 8 * Math.ceil(data.length / 8));
    bytes.writeBigUInt64LE(BigInt(data.length));
    bytes.set(data, 8);
    return bytes;
  });
}

/** The objects of a plain binary cache that has `paths`, by URL path, for a StandInCache. */
export async function cacheObjects(
  paths: readonly StandInPath[],
  compression: Compression = "zstd",
): Promise<Record<string, Buffer | string>> {
  const objects: Record<string, Buffer | string> = {
    "/nix-cache-info": "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n",
  };
  for (const path of paths) Object.assign(objects, await pathObjects(path, compression));
  return objects;
}

/** The narinfo and the NAR of one path. */
export async function pathObjects(
  { storePath, files, references }: StandInPath,
  compression: Compression,
): Promise<Record<string, Buffer | string>> {
  const nar = encodeStandInNar(files);
  const served: Uint8Array[] = [];
  for await (const piece of compress(compression, [nar], { level: 1 })) served.push(piece);
  const narHash = narHashOf(createHash("sha256").update(nar).digest());
  const url = `nar/${nixHashDigits(narHash)}.nar.${compression}`;
  const narInfo = {
    ...{ storeDir: NIX_STORE_DIR, storePath, url, compression, narHash, narSize: nar.length },
    ...{ fileSize: Buffer.concat(served).length, references: [...references].sort() },
    ...{ signatures: [], quirks: [] },
  };
  return {
    [`/${storePath.slice(0, 32)}.narinfo`]: formatNarInfo(narInfo),
    [`/${url}`]: Buffer.concat(served),
  };
}
