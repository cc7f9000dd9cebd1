import { type CallOptions, type FileObjectStore, openFileObjectStore } from "@castore/castore";

/**
 * What a cache's directory holds, by kind, in the order in which it may be removed: first what
 * makes the rest visible, and nothing before what refers to it.
 */
const KINDS: readonly RegExp[] = [
  /^[0-9a-z]{32}\.narinfo$/,
  /^[0-9a-z]{32}\.ls$/,
  /^(closure|summaries|summary)\/[0-9a-z]{32}$/,
  /^pathinfo\/[0-9a-z]{32}$/,
  /^recipe\/[0-9a-f]{64}$/,
  /^dirs\/b3\/[0-9a-f]{4}\/[0-9a-f]{64}$/,
  /^outboard\/[0-9a-f]{64}$/,
  /^blobs\/b3\/[0-9a-f]{4}\/[0-9a-f]{64}$/,
  /^chunks\/b3\/[0-9a-f]{4}\/[0-9a-f]{64}$/,
  /^nar\/[0-9a-z]{52}\.nar(\.[0-9a-z]+)?$/,
];

/** A directory that becomes a static cache, and which of its files still belong to it. */
export class ExportDirectory implements AsyncDisposable {
  readonly objects: FileObjectStore;
  readonly #kept: Set<string> | undefined;

  private constructor(objects: FileObjectStore, kept: Set<string> | undefined) {
    this.objects = objects;
    this.#kept = kept;
  }

  /** Opens or makes it. `isKeeping` where `prune` will be called. */
  static async open(path: string, isKeeping: boolean): Promise<ExportDirectory> {
    const kept = isKeeping ? new Set<string>() : undefined;
    return new ExportDirectory(await openFileObjectStore(path), kept);
  }

  get isKeeping(): boolean {
    return this.#kept !== undefined;
  }

  /** Notes that the file belongs to what is exported. */
  keep(key: string): void {
    this.#kept?.add(key);
  }

  /** Makes `bytes` the file's contents; one that has them already stays untouched. */
  async replace(key: string, bytes: Uint8Array, options: CallOptions): Promise<void> {
    this.keep(key);
    const present = await this.objects.head(key, options);
    if (present?.size === bytes.byteLength) {
      const same = await this.objects.get(key, { ...options, bytesMax: present.size });
      if (same?.equals(bytes) === true) return;
    }
    await this.objects.put(key, bytes, options);
  }

  /** Removes the files of a cache that were not kept, and no others; resolves with how many. */
  async prune(options: CallOptions): Promise<number> {
    const removable = KINDS.map((): string[] => []);
    for await (const { key } of this.objects.list("", options)) {
      const kind = KINDS.findIndex((pattern) => pattern.test(key));
      if (this.#kept?.has(key) === false) removable[kind]?.push(key);
    }
    for (const key of removable.flat()) await this.objects.delete(key, options);
    return removable.reduce((sum, { length }) => sum + length, 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.objects.close();
  }
}
