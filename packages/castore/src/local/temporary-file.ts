import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Digest } from "../model/digest.ts";
import type { OpenStore } from "./open-store.ts";
import { storeError } from "./store-error.ts";

/** A file of a store that is not yet a blob. */
export interface TemporaryFile {
  /** Appends `pieces`, which must not change until it resolves. */
  write(pieces: readonly Uint8Array[]): Promise<void>;
  /**
   * Makes it the file of the blob `digest`, in place of one that may be there. Durable when
   * resolved. No other call follows but `discard`.
   */
  moveTo(digest: Digest): Promise<void>;
  /** Removes it unless it was moved. Idempotent. */
  discard(): Promise<void>;
}

export async function createTemporaryFile(store: OpenStore): Promise<TemporaryFile> {
  const path = join(store.layout.temporary, store.leases.temporaryName());
  const handle = await open(path, "wx", 0o444).catch((cause: unknown) => {
    throw storeError("put a blob", cause);
  });
  return new WrittenFile(store, path, handle);
}

class WrittenFile implements TemporaryFile {
  readonly #store: OpenStore;
  readonly #path: string;
  #handle: FileHandle | undefined;
  #moved = false;

  constructor(store: OpenStore, path: string, handle: FileHandle) {
    this.#store = store;
    this.#path = path;
    this.#handle = handle;
  }

  async write(pieces: readonly Uint8Array[]): Promise<void> {
    let rest = pieces;
    while (rest.length > 0) {
      // libuv writes at most IOV_MAX buffers at once, and says how much it wrote.
      const part = rest.slice(0, 512);
      const size = part.reduce((sum, piece) => sum + piece.byteLength, 0);
      try {
        const written = await this.#handle?.writev(part);
        if (written !== undefined && written.bytesWritten < size) {
          await this.#handle?.write(Buffer.concat(part), written.bytesWritten);
        }
      } catch (cause) {
        throw storeError("put a blob", cause);
      }
      rest = rest.slice(512);
    }
  }

  async moveTo(digest: Digest): Promise<void> {
    try {
      await this.#handle?.datasync();
      await this.#close();
      await this.#store.forgetUnlink(digest);
      const shard = await this.#store.shards.get(digest);
      await rename(this.#path, this.#store.layout.blob(digest));
      this.#moved = true;
      await this.#store.groupSync.sync(shard);
    } catch (cause) {
      throw storeError(`put blob ${digest}`, cause);
    }
  }

  async discard(): Promise<void> {
    await this.#close();
    if (!this.#moved) await rm(this.#path, { force: true });
    this.#moved = true;
  }

  async #close(): Promise<void> {
    const handle = this.#handle;
    this.#handle = undefined;
    await handle?.close();
  }
}
