import { mkdir, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { CastoreError, systemCodeOf } from "../castore-error.ts";
import { syncPath } from "../files/sync.ts";
import { DIGEST_BYTES, type Digest } from "../model/digest.ts";
import { storeError } from "./store-error.ts";

/** The one format that is read and written. */
export const STORE_FORMAT = "castore-store 1\n";

/** Where the parts of a local store lie (docs/local-store.md, Layout). */
export interface StoreLayout {
  readonly path: string;
  readonly index: string;
  readonly blobs: string;
  readonly temporary: string;
  readonly quarantine: string;
  /** The directory of the blobs whose digest begins as this one does; made when it is needed. */
  shard(digest: Digest): string;
  blob(digest: Digest): string;
}

export function storeLayout(path: string): StoreLayout {
  return {
    path,
    index: join(path, "index"),
    blobs: join(path, "blobs"),
    temporary: join(path, "tmp"),
    quarantine: join(path, "quarantine"),
    shard: (digest) => join(path, "blobs", digest.slice(0, 2)),
    blob: (digest) => join(path, "blobs", digest.slice(0, 2), digest.slice(2)),
  };
}

/** The digest of the blob that a file is named for; undefined for another file. */
export function digestOfBlobPath(shard: string, name: string): Digest | undefined {
  const hex = shard + name;
  return hex.length === 2 * DIGEST_BYTES && /^[0-9a-f]+$/.test(hex) ? (hex as Digest) : undefined;
}

/** Whether there is a store. Rejects UNSUPPORTED for another format, INVALID for other files. */
export async function checkFormat(layout: StoreLayout): Promise<boolean> {
  const format = await readFormat(layout);
  if (format === STORE_FORMAT) return true;
  if (format !== undefined) {
    const found = JSON.stringify(format.slice(0, 64));
    const message = `store ${layout.path}: its format is ${found}, this program reads`;
    throw new CastoreError("UNSUPPORTED", `${message} ${JSON.stringify(STORE_FORMAT)}`);
  }
  const names: string[] = await readdir(layout.path).catch(() => []);
  // Another process has made the store in between.
  if (names.includes("format")) return checkFormat(layout);
  const foreign = names.find((name) => !/^(index|blobs|tmp|quarantine|format\..*)$/.test(name));
  if (foreign !== undefined) {
    throw new CastoreError("INVALID", `${layout.path} is not a store: it holds ${foreign}`);
  }
  return false;
}

async function readFormat(layout: StoreLayout): Promise<string | undefined> {
  try {
    return await readFile(join(layout.path, "format"), "latin1");
  } catch (cause) {
    const code = systemCodeOf(cause);
    if (code === "ENOENT") return undefined;
    if (code === "ENOTDIR") {
      throw new CastoreError("INVALID", `store ${layout.path}: not a directory`, { cause });
    }
    throw storeError(`store ${layout.path}`, cause);
  }
}

/** Makes an empty store; `format` comes last, so what a crash leaves is made again. */
export async function createLayout(layout: StoreLayout): Promise<void> {
  try {
    for (const path of [layout.index, layout.blobs, layout.temporary, layout.quarantine]) {
      await mkdir(path, { recursive: true });
    }
    const temporary = join(layout.path, `format.${process.pid}`);
    await writeFile(temporary, STORE_FORMAT, { flush: true });
    await rename(temporary, join(layout.path, "format"));
    await syncPath(layout.path);
    await syncPath(join(layout.path, ".."));
  } catch (cause) {
    throw storeError(`create store ${layout.path}`, cause);
  }
}
