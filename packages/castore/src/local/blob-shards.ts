import { mkdir } from "node:fs/promises";
import type { GroupSync } from "../files/sync.ts";
import type { Digest } from "../model/digest.ts";
import type { StoreLayout } from "./store-layout.ts";

/** The directories that blobs lie in, each made when it is first needed. */
export class BlobShards {
  readonly #layout: StoreLayout;
  readonly #groupSync: GroupSync;
  readonly #ready = new Map<string, Promise<void>>();

  constructor(layout: StoreLayout, groupSync: GroupSync) {
    this.#layout = layout;
    this.#groupSync = groupSync;
  }

  /** The path of the blob's directory, which exists durably: also where another process made it. */
  async get(digest: Digest): Promise<string> {
    const path = this.#layout.shard(digest);
    let ready = this.#ready.get(path);
    if (ready === undefined) {
      ready = this.#make(path);
      this.#ready.set(path, ready);
      ready.catch(() => this.#ready.delete(path));
    }
    await ready;
    return path;
  }

  async #make(path: string): Promise<void> {
    await mkdir(path, { recursive: true });
    await this.#groupSync.sync(this.#layout.blobs);
  }
}
