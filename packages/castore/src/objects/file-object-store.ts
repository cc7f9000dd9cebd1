import { randomUUID } from "node:crypto";
import { type FileHandle, link, open, readdir, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { CastoreError, type CastoreErrorCode, systemCodeOf } from "../castore-error.ts";
import { makeDirectories } from "../files/make-directories.ts";
import { createGroupSync } from "../files/sync.ts";
import { clipRange } from "../streams/byte-range.ts";
import type { ByteSource, CallOptions } from "../streams/byte-source.ts";
import { cancellable } from "../streams/cancellable.ts";
import {
  checkObjectKey,
  checkObjectSize,
  type GetObjectOptions,
  OBJECT_BYTES_MAX,
  type ObjectEntry,
  type ObjectStore,
  type PutObjectOptions,
} from "./object-store.ts";

/** Temporary files lie beside the objects; a file server may hide what begins so. */
const TEMPORARY = ".tmp-";

/** A temporary file this old was left behind by a writer that died. */
const TEMPORARY_AGE_MS = 24 * 3_600_000;

export interface FileObjectStore extends ObjectStore {
  /** Stores what `source` yields, as `put` does, without holding it in memory. */
  putStream(key: string, source: ByteSource, options?: CallOptions): Promise<void>;
}

/**
 * Objects as files below `directory`, which is made when missing. A put is a temporary file, its
 * fsync, a link or rename, and the fsync of the directory. Temporary files older than a day are
 * removed when the store is opened.
 */
export async function openFileObjectStore(directory: string): Promise<FileObjectStore> {
  const store = new Files(directory);
  await faults(store.name, async () => {
    await makeDirectories(directory);
    await removeOldTemporaries(directory);
  });
  return store;
}

class Files implements FileObjectStore {
  readonly name: string;
  readonly #directory: string;
  /** Puts that run at once share the fsync of a directory. */
  readonly #groupSync = createGroupSync();

  constructor(directory: string) {
    this.#directory = directory;
    this.name = `file://${directory}`;
  }

  async get(key: string, options: GetObjectOptions = {}): Promise<Buffer | undefined> {
    const { signal, range, bytesMax = OBJECT_BYTES_MAX } = options;
    signal?.throwIfAborted();
    const file = await faults(this.name, () => openIfThere(this.#path(key)));
    if (file === undefined) return undefined;
    try {
      const stats = await file.stat();
      if (!stats.isFile()) return undefined;
      const { size } = stats;
      const { start, end } = clipRange(size, range?.start, range?.end);
      checkObjectSize(this.name, key, end - start, bytesMax);
      return await faults(this.name, () => readRange(file, start, end));
    } finally {
      await file.close();
    }
  }

  async head(key: string, { signal }: GetObjectOptions = {}) {
    signal?.throwIfAborted();
    return await faults(this.name, async () => {
      try {
        const stats = await stat(this.#path(key));
        return stats.isFile() ? { size: stats.size } : undefined;
      } catch (error) {
        if (isAbsence(error)) return undefined;
        throw error;
      }
    });
  }

  async put(key: string, bytes: Uint8Array, options: PutObjectOptions = {}): Promise<boolean> {
    options.signal?.throwIfAborted();
    return await this.#write(key, [bytes], options.ifAbsent === true ? link : rename);
  }

  async putStream(key: string, source: ByteSource, { signal }: CallOptions = {}): Promise<void> {
    signal?.throwIfAborted();
    await this.#write(key, cancellable(source, signal), rename);
  }

  /** Resolves with false where `publish` found the object there. */
  async #write(
    key: string,
    source: ByteSource,
    publish: (temporary: string, path: string) => Promise<void>,
  ): Promise<boolean> {
    const path = this.#path(key);
    return await faults(this.name, async () => {
      const temporary = join(this.#directory, `${TEMPORARY}${randomUUID()}`);
      try {
        await writeDurably(temporary, source);
        await this.#makeParent(path);
        await publish(temporary, path);
        await this.#groupSync.sync(dirname(path));
        return true;
      } catch (error) {
        if (publish === link && systemCodeOf(error) === "EEXIST") return false;
        throw error;
      } finally {
        await rm(temporary, { force: true });
      }
    });
  }

  async *list(prefix: string, { signal }: GetObjectOptions = {}): AsyncGenerator<ObjectEntry> {
    const pending = [""];
    for (let at = pending.pop(); at !== undefined; at = pending.pop()) {
      signal?.throwIfAborted();
      if (at !== "" && !at.endsWith("/")) {
        const found = at.startsWith(prefix) ? await this.head(at) : undefined;
        if (found !== undefined) yield { key: at, size: found.size };
        continue;
      }
      const directory = join(this.#directory, at);
      const entries = await faults(this.name, () => readdir(directory, { withFileTypes: true }));
      // The slash takes part in the order, as in a bucket.
      const keys = entries
        .filter(({ name }) => !name.startsWith("."))
        .map((entry) => `${at}${entry.name}${entry.isDirectory() ? "/" : ""}`)
        .filter((key) => key.startsWith(prefix) || prefix.startsWith(key))
        .sort();
      pending.push(...keys.reverse());
    }
  }

  async delete(key: string, { signal }: GetObjectOptions = {}): Promise<void> {
    signal?.throwIfAborted();
    await faults(this.name, () => rm(this.#path(key), { force: true }));
  }

  async close(): Promise<void> {}

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #path(key: string): string {
    checkObjectKey(key);
    return join(this.#directory, key);
  }

  /** Makes the directory of `path`, durably but for the entries of its own. */
  async #makeParent(path: string): Promise<void> {
    const made = await makeDirectories(dirname(path));
    for (const directory of made) await this.#groupSync.sync(dirname(directory));
  }
}

async function openIfThere(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, "r");
  } catch (error) {
    if (isAbsence(error)) return undefined;
    throw error;
  }
}

async function readRange(file: FileHandle, start: number, end: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafeSlow(end - start);
  let filled = 0;
  while (filled < bytes.byteLength) {
    const { bytesRead } = await file.read(bytes, filled, bytes.byteLength - filled, start + filled);
    if (bytesRead === 0) throw new CastoreError("CORRUPT", "a file became shorter while read");
    filled += bytesRead;
  }
  return bytes;
}

async function writeDurably(path: string, source: ByteSource): Promise<void> {
  const file = await open(path, "wx", 0o644);
  try {
    for await (const bytes of source) await file.writeFile(bytes);
    await file.datasync();
  } finally {
    await file.close();
  }
}

async function removeOldTemporaries(directory: string): Promise<void> {
  for (const name of await readdir(directory)) {
    if (!name.startsWith(TEMPORARY)) continue;
    const path = join(directory, name);
    const stats = await stat(path).catch(() => undefined);
    if (stats !== undefined && Date.now() - stats.mtimeMs > TEMPORARY_AGE_MS) {
      await rm(path, { force: true });
    }
  }
}

const CODE_OF_ERRNO: Readonly<Record<string, CastoreErrorCode>> = {
  EACCES: "DENIED",
  EPERM: "DENIED",
  EROFS: "READ_ONLY",
  ENOSPC: "EXHAUSTED",
  EDQUOT: "EXHAUSTED",
  EMFILE: "EXHAUSTED",
};

async function faults<T>(name: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    const code = systemCodeOf(error);
    if (code === undefined || error instanceof CastoreError) throw error;
    const message = `${name}: ${error instanceof Error ? error.message : code}`;
    throw new CastoreError(CODE_OF_ERRNO[code] ?? "UNAVAILABLE", message, { cause: error });
  }
}

function isAbsence(error: unknown): boolean {
  const code = systemCodeOf(error);
  return code === "ENOENT" || code === "ENOTDIR" || code === "EISDIR";
}
