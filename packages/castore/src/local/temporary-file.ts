import { closeSync, fdatasync, open, writev } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { CastoreError } from "../castore-error.ts";
import type { OpenStore } from "./open-store.ts";
import { storeError } from "./store-error.ts";

/** A file of a store that is not yet a blob. */
export interface TemporaryFile {
  /** Appends `pieces`, which must not change until it resolves. */
  write(pieces: readonly Uint8Array[]): Promise<void>;
  /** Makes its data durable; resolves with its path. No other call follows but `discard`. */
  seal(): Promise<string>;
  /** Removes it, where it is still there. */
  discard(): Promise<void>;
}

// A FileHandle costs more than what is done with it here.
const openPath = promisify(open);
const writePieces = promisify(writev);
const syncData = promisify(fdatasync);

/**
 * So many bytes are synced while the next ones are written: the disk, which would wait for the last
 * byte, works meanwhile.
 */
const SYNC_BYTES = 64 << 20;
/** libuv writes at most so many buffers at once. */
const PIECES_MAX = 512;

export async function createTemporaryFile(store: OpenStore): Promise<TemporaryFile> {
  const path = join(store.layout.temporary, store.leases.temporaryName());
  const descriptor = await openPath(path, "wx", 0o444).catch((cause: unknown) => {
    throw storeError("put a blob", cause);
  });
  return new WrittenFile(path, descriptor);
}

class WrittenFile implements TemporaryFile {
  readonly #path: string;
  #descriptor: number | undefined;
  #unsyncedBytes = 0;
  /** The one sync that may be under way. */
  #syncing: Promise<void> | undefined;
  /** A fault is told to one sync, and never again. */
  #syncFault: { readonly cause: unknown } | undefined;

  constructor(path: string, descriptor: number) {
    this.#path = path;
    this.#descriptor = descriptor;
  }

  async write(pieces: readonly Uint8Array[]): Promise<void> {
    let rest = pieces;
    try {
      while (rest.length > 0) {
        const part = rest.slice(0, PIECES_MAX);
        const size = part.reduce((sum, piece) => sum + piece.byteLength, 0);
        const { bytesWritten } = await writePieces(this.#open(), part);
        rest = rest.slice(PIECES_MAX);
        if (bytesWritten < size) rest = [Buffer.concat(part).subarray(bytesWritten), ...rest];
        this.#unsyncedBytes += bytesWritten;
      }
      if (this.#unsyncedBytes >= SYNC_BYTES) this.#syncBeside();
    } catch (cause) {
      throw storeError("put a blob", cause);
    }
  }

  async seal(): Promise<string> {
    await this.#syncing;
    try {
      if (this.#syncFault !== undefined) throw this.#syncFault.cause;
      await syncData(this.#open());
      this.#close();
      return this.#path;
    } catch (cause) {
      throw storeError("put a blob", cause);
    }
  }

  async discard(): Promise<void> {
    // The descriptor must not be closed, and used for another file, under a sync.
    await this.#syncing;
    this.#close();
    await rm(this.#path, { force: true });
  }

  #syncBeside(): void {
    if (this.#syncing !== undefined) return;
    this.#unsyncedBytes = 0;
    this.#syncing = syncData(this.#open())
      .catch((cause: unknown) => {
        this.#syncFault = { cause };
      })
      .finally(() => {
        this.#syncing = undefined;
      });
  }

  #open(): number {
    if (this.#descriptor !== undefined) return this.#descriptor;
    throw new CastoreError("CLOSED", `${this.#path}: is closed`);
  }

  #close(): void {
    const descriptor = this.#descriptor;
    this.#descriptor = undefined;
    if (descriptor !== undefined) closeSync(descriptor);
  }
}
