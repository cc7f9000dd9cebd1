import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { createBlobAnalyzer } from "../recipes/blob-analyzer.ts";
import { createNormalForm, type NormalForm, REFERENCES_MAX } from "../recipes/normal-form.ts";
import { type ChunkPlace, chunkPlacesOf } from "./chunk-rows.ts";
import {
  decodeSeedFile,
  deleteSeeds,
  type FileStamp,
  putSeedFile,
  SEED_PATH_BYTES_MAX,
  sameStamp,
} from "./seed-rows.ts";
import { peekRow, type StoreIndex } from "./store-index.ts";
import type { TaskHost } from "./store-task.ts";

/** Files below this are cheaper to fetch than to keep in the index. */
const FILE_BYTES_MIN = 1024;
const BATCH_FILES = 512;
const PIECE_BYTES = 1 << 18;
/** As puts do, leaves room on the disk for what deletes. */
const WRITE_ROOM_BYTES = 32 << 20;

export interface SeedOptions {
  /** A directory such as /nix/store: an entry changes as a whole, or not; .* are passed over. */
  readonly path: string;
  readonly bytesMin?: number;
}

export interface SeedReport {
  readonly filesIndexed: number;
  readonly bytesRead: number;
  /** Entries of the directory that had not changed since. */
  readonly entriesSkipped: number;
  /** Files that were indexed and are gone. */
  readonly filesForgotten: number;
  /** Files and directories that could not be read. */
  readonly failures: number;
}

/**
 * Indexes the chunks of the files below a directory, in place. As the references of those paths are
 * not known, every hash part in the directory's listing counts as one: a chunk with another text
 * that looks like a reference is not found, that is all. Takes up what was indexed before. Throws
 * where the directory itself cannot be listed, and forgets nothing then.
 */
export function seedTree(index: StoreIndex, options: SeedOptions, host: TaskHost): SeedReport {
  return new Seeding(index, options, host).run();
}

interface Indexed {
  readonly path: string;
  readonly stamp: FileStamp;
  readonly places: readonly (readonly [Uint8Array, ChunkPlace])[];
}

class Seeding {
  readonly #index: StoreIndex;
  readonly #root: string;
  readonly #bytesMin: number;
  readonly #host: TaskHost;
  readonly #batch: Indexed[] = [];
  readonly #report = {
    filesIndexed: 0,
    bytesRead: 0,
    entriesSkipped: 0,
    filesForgotten: 0,
    failures: 0,
  };

  constructor(index: StoreIndex, options: SeedOptions, host: TaskHost) {
    this.#index = index;
    this.#root = resolve(options.path);
    this.#bytesMin = options.bytesMin ?? FILE_BYTES_MIN;
    this.#host = host;
  }

  run(): SeedReport {
    const names = readdirSync(this.#root);
    this.#forgetGone(new Set(names));
    const form = createNormalForm(hashParts(names));
    for (const name of names) {
      if (name.startsWith(".")) continue;
      const path = join(this.#root, name);
      const stamp = this.#attempt(() => lstatSync(path, { bigint: true }));
      if (stamp === undefined || Buffer.byteLength(path) > SEED_PATH_BYTES_MAX) continue;
      const row = peekRow(this.#index.rows["seed-files"], Buffer.from(path));
      if (row !== undefined && sameStamp(decodeSeedFile(row), stamp)) {
        this.#report.entriesSkipped++;
        continue;
      }
      this.#index.transaction(() => deleteSeeds(this.#index, path));
      this.#visit(path, form);
      if (!stamp.isFile()) this.#add({ path, stamp, places: [] });
    }
    this.#write();
    return this.#report;
  }

  #forgetGone(names: ReadonlySet<string>): void {
    const prefix = `${this.#root}/`;
    const gone: string[] = [];
    for (const key of this.#index.rows["seed-files"].getKeys({ start: Buffer.from(prefix) })) {
      const path = Buffer.from(key).toString();
      if (!path.startsWith(prefix)) break;
      const name = path.slice(prefix.length);
      if (!name.includes("/") && !names.has(name)) gone.push(path);
    }
    for (const path of gone) {
      this.#host.checkpoint();
      const files = this.#index.transaction(() => deleteSeeds(this.#index, path));
      this.#report.filesForgotten += files;
    }
  }

  #visit(root: string, form: NormalForm): void {
    const pending = [root];
    for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
      this.#host.checkpoint();
      const at = path;
      const stat = this.#attempt(() => lstatSync(at));
      if (stat?.isDirectory()) {
        const names = this.#attempt(() => readdirSync(at)) ?? [];
        for (const name of names) pending.push(join(at, name));
      } else if (stat?.isFile() && stat.size >= this.#bytesMin) {
        if (Buffer.byteLength(at) > SEED_PATH_BYTES_MAX) continue;
        const indexed = this.#attempt(() => indexFile(at, form));
        if (indexed !== undefined) this.#add(indexed);
      }
    }
  }

  #add(indexed: Indexed): void {
    if (indexed.places.length > 0) {
      this.#report.filesIndexed++;
      this.#report.bytesRead += Number(indexed.stamp.size);
    }
    this.#batch.push(indexed);
    if (this.#batch.length >= BATCH_FILES) this.#write();
  }

  #write(): void {
    const batch = this.#batch.splice(0);
    if (batch.length === 0) return;
    this.#index.transaction(() => {
      for (const { path, stamp, places } of batch) putSeedFile(this.#index, path, stamp, places);
    }, WRITE_ROOM_BYTES);
  }

  /** What changes or cannot be read is passed over: seeds are a help, not a promise. */
  #attempt<T>(action: () => T): T | undefined {
    try {
      return action();
    } catch {
      this.#report.failures++;
      return undefined;
    }
  }
}

function hashParts(names: readonly string[]): string[] {
  const parts = new Set<string>();
  for (const name of names) {
    const part = /^([0-9a-df-np-sv-z]{32})-/.exec(name)?.[1];
    if (part !== undefined && parts.size < REFERENCES_MAX) parts.add(part);
  }
  return [...parts];
}

function indexFile(path: string, form: NormalForm): Indexed {
  const file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const stamp = fstatSync(file, { bigint: true });
    const analyzer = createBlobAnalyzer(form);
    while (true) {
      const piece = Buffer.allocUnsafe(PIECE_BYTES);
      const got = readSync(file, piece, 0, PIECE_BYTES, null);
      if (got === 0) break;
      analyzer.push(piece.subarray(0, got));
    }
    return { path, stamp, places: chunkPlacesOf(analyzer.finish()) };
  } finally {
    closeSync(file);
  }
}
