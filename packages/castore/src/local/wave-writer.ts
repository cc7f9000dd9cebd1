import { type Digest, digestBytes, digestOfBytes } from "../model/digest.ts";
import { INLINE_BYTES_MAX } from "./blob-row.ts";
import { commitGroup, type WriteResult } from "./commit-group.ts";
import { type BlobFile, type BlobFolder, FileWave } from "./file-wave.ts";
import { storeError } from "./store-error.ts";
import type { StoreIndex } from "./store-index.ts";
import type { StoreWrite } from "./store-writes.ts";

/** Most writes in one transaction: bounds how long others wait for the lock. */
const WAVE_WRITES_MAX = 4096;
const WAVE_BYTES_MAX = 32 << 20;

/** Writes that become durable together. */
interface Wave {
  readonly writes: StoreWrite[];
  bytes: number;
  readonly files: FileWave;
  readonly results: Promise<readonly WriteResult[]>;
  settle(results: readonly WriteResult[]): void;
}

/**
 * Makes writes durable in waves: what comes while one is on its way makes up the next. The files of
 * the next are written meanwhile.
 */
export class WaveWriter {
  readonly #index: StoreIndex;
  readonly #folder: BlobFolder;
  /** Those that have not begun. */
  readonly #waiting: Wave[] = [];
  #isBusy = false;

  constructor(index: StoreIndex, folder: Omit<BlobFolder, "shards" | "forgetUnlinks">) {
    this.#index = index;
    const forgetUnlinks = (digests: readonly Digest[]) => this.#forgetUnlinks(digests);
    this.#folder = { ...folder, shards: new Set(), forgetUnlinks };
  }

  /** Resolves with what became of each of `writes`; they must not change until then. */
  async write(writes: readonly StoreWrite[]): Promise<readonly WriteResult[]> {
    const wave = this.#open();
    const first = wave.writes.length;
    for (const write of writes) {
      wave.writes.push(write);
      if (write.type === "blob") wave.bytes += write.contents?.byteLength ?? 0;
    }
    wave.files.add(writes.flatMap((write) => fileOf(write) ?? []));
    if (!this.#isBusy) void this.#run();
    const results = await wave.results;
    return results.slice(first, first + writes.length);
  }

  /** The wave that takes the next writes. */
  #open(): Wave {
    const last = this.#waiting.at(-1);
    const isFull = (wave: Wave) =>
      wave.writes.length >= WAVE_WRITES_MAX || wave.bytes >= WAVE_BYTES_MAX;
    if (last !== undefined && !isFull(last)) return last;
    let settle: Wave["settle"] = () => {};
    const results = new Promise<readonly WriteResult[]>((resolve) => {
      settle = resolve;
    });
    const wave = { writes: [], bytes: 0, files: new FileWave(this.#folder), results, settle };
    this.#waiting.push(wave);
    return wave;
  }

  async #run(): Promise<void> {
    this.#isBusy = true;
    while (this.#waiting.length > 0) {
      // What has come already goes along.
      await new Promise((resolve) => setImmediate(resolve));
      const wave = this.#waiting.shift();
      wave?.settle(await this.#commit(wave));
    }
    this.#isBusy = false;
  }

  async #commit({ writes, files }: Wave): Promise<readonly WriteResult[]> {
    const faults = await files.place();
    return commitGroup(this.#index, writes, (write) => {
      const { digest } = fileOf(write) ?? {};
      if (digest === undefined || !faults.has(digest)) return undefined;
      return storeError(`put blob ${digest}`, faults.get(digest));
    });
  }

  /** Must see all that was committed before the blobs' leases began. */
  #forgetUnlinks(digests: readonly Digest[]): void {
    const { rows, refresh, transaction } = this.#index;
    refresh();
    const keys = digests.map(digestBytes).filter((key) => rows.unlinks.doesExist(key));
    if (keys.length === 0) return;
    transaction(() => {
      for (const key of keys) rows.unlinks.removeSync(key);
    });
  }
}

/** The file that a write makes; undefined where it makes none. */
function fileOf(write: StoreWrite): BlobFile | undefined {
  if (write.type !== "blob" || write.size <= INLINE_BYTES_MAX) return undefined;
  const from = write.contents ?? write.temporary;
  return from === undefined ? undefined : { digest: digestOfBytes(write.digest), from };
}
