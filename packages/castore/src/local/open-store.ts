import { CastoreError } from "../castore-error.ts";
import { type Digest, digestBytes } from "../model/digest.ts";
import { DamagedBlobs } from "./damaged-blobs.ts";
import type { StoreIndex } from "./store-index.ts";
import type { StoreLayout } from "./store-layout.ts";
import type { StoreLeases } from "./store-leases.ts";
import type { StoreWriter } from "./store-writer.ts";
import { condemnedKey, type ObjectRows, type StoreWrite } from "./store-writes.ts";

export interface OpenStoreParts {
  readonly layout: StoreLayout;
  readonly index: StoreIndex;
  readonly leases: StoreLeases;
  /** Undefined where the store is only read. */
  readonly writer: StoreWriter | undefined;
}

/** What the parts of one open local store share. */
export class OpenStore {
  readonly layout: StoreLayout;
  readonly leases: StoreLeases;
  /** Blobs whose files a read has found damaged: absent, until a put has written them anew. */
  readonly damaged = new DamagedBlobs();
  /** Called after each write. */
  onWrite: () => void = () => {};
  readonly #index: StoreIndex;
  readonly #writer: StoreWriter | undefined;
  #closed = false;

  constructor(parts: OpenStoreParts) {
    this.layout = parts.layout;
    this.leases = parts.leases;
    this.#index = parts.index;
    this.#writer = parts.writer;
  }

  /** Rejects CLOSED after close(). */
  get index(): StoreIndex {
    if (this.#closed) throw new CastoreError("CLOSED", `store ${this.layout.path} is closed`);
    return this.#index;
  }

  get readOnly(): boolean {
    return this.#writer === undefined;
  }

  /** Rejects READ_ONLY or CLOSED. */
  checkWritable(): StoreWriter {
    if (this.#closed) throw new CastoreError("CLOSED", `store ${this.layout.path} is closed`);
    if (this.#writer !== undefined) return this.#writer;
    throw new CastoreError("READ_ONLY", `store ${this.layout.path} was opened for reading`);
  }

  /** Resolves with what the write returned, once it is durable; as of StoreWriter. */
  async write(write: StoreWrite): Promise<boolean> {
    const [value = false] = await this.writeAll([write]);
    return value;
  }

  async writeAll(writes: readonly StoreWrite[]): Promise<readonly boolean[]> {
    const values = await this.checkWritable().write(writes);
    this.onWrite();
    return values;
  }

  /** Whether the object is there; if so, it will be for as long as this process holds a lease. */
  async sees(rows: ObjectRows, digest: Digest): Promise<boolean> {
    const key = digestBytes(digest);
    if (!this.index.rows[rows].doesExist(key)) return false;
    if (this.readOnly || !this.isCondemned(rows, key)) return true;
    return this.write({ type: "see", rows, digest: key });
  }

  /** Whether a collection takes the object unless somebody sees it first. */
  isCondemned(rows: ObjectRows, key: Uint8Array): boolean {
    return this.index.rows.condemned.doesExist(condemnedKey(rows, key));
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    await this.#writer?.close();
    this.leases.close();
    this.#closed = true;
    await this.#index.close();
  }
}
