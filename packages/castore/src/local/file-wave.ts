import { closeSync, mkdirSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { FileSystemSync } from "../files/file-system-sync.ts";
import { syncPath } from "../files/sync.ts";
import type { Digest } from "../model/digest.ts";
import { atMost } from "../streams/parallel.ts";
import type { StoreLayout } from "./store-layout.ts";

/** A blob that becomes a file. */
export interface BlobFile {
  readonly digest: Digest;
  /** Its bytes, or a file in `tmp/` that has them durably. */
  readonly from: Uint8Array | string;
}

/** What all waves of one store share. */
export interface BlobFolder {
  readonly layout: StoreLayout;
  /** A name in `tmp/` that no other file has. */
  readonly temporaryName: () => string;
  /** Undefined where each file must be synced by itself. */
  readonly beginSync: (() => FileSystemSync) | undefined;
  /** Directories that are known to exist durably. */
  readonly shards: Set<string>;
  /** Keeps the files of deleted blobs from being removed, as they are about to be replaced. */
  readonly forgetUnlinks: (digests: readonly Digest[]) => void;
}

/** So many files, or directories, are synced by one sync of the file system; fewer one by one. */
const TOGETHER_MIN = 32;
/** Files and directories that are open at once: a process may not have many. */
const OPEN_MAX = 16;

interface Draft {
  readonly digest: Digest;
  readonly path: string;
  fault: { readonly cause: unknown } | undefined;
}

interface UnwrittenDraft {
  readonly draft: Draft;
  readonly bytes: Uint8Array;
}

/** Files that become blobs, and durable, together. */
export class FileWave {
  readonly #folder: BlobFolder;
  readonly #drafts: Draft[] = [];
  #unwritten: UnwrittenDraft[] = [];
  #sync: FileSystemSync | undefined;
  readonly #few = atMost(OPEN_MAX);

  constructor(folder: BlobFolder) {
    this.#folder = folder;
  }

  /** Takes `files`, whose bytes must not change until `place` has resolved. */
  add(files: readonly BlobFile[]): void {
    const { layout, temporaryName, beginSync } = this.#folder;
    for (const { digest, from } of files) {
      const path = typeof from === "string" ? from : join(layout.temporary, temporaryName());
      const draft: Draft = { digest, path, fault: undefined };
      this.#drafts.push(draft);
      if (typeof from !== "string") this.#unwritten.push({ draft, bytes: from });
    }
    if (beginSync === undefined || this.#drafts.length < TOGETHER_MIN) return;
    const written = this.#unwritten;
    this.#unwritten = [];
    for (const { draft, bytes } of written) {
      attempt([draft], () => {
        this.#sync ??= beginSync();
        writeNow(draft.path, bytes);
      });
    }
  }

  /**
   * Makes the files durable, then gives them their names, and makes those durable. Resolves with
   * the blobs that failed, and why. Call it once.
   */
  async place(): Promise<ReadonlyMap<Digest, unknown>> {
    const { layout, forgetUnlinks } = this.#folder;
    const sync = this.#sync;
    await Promise.all(this.#unwritten.map((unwritten) => this.#writeDurably(unwritten)));
    if (sync !== undefined) await attemptAsync(this.#sound(), () => sync.sync());
    await attemptAsync(this.#sound(), () => this.#makeShards());
    attempt(this.#sound(), () => forgetUnlinks(this.#sound().map(({ digest }) => digest)));
    for (const draft of this.#sound()) {
      attempt([draft], () => renameSync(draft.path, layout.blob(draft.digest)));
    }
    await attemptAsync(this.#sound(), () => this.#syncNames());
    if (sync !== undefined) await attemptAsync([], () => sync.close());
    const faults = new Map<Digest, unknown>();
    for (const { digest, path, fault } of this.#drafts) {
      if (fault === undefined) continue;
      faults.set(digest, fault.cause);
      attempt([], () => rmSync(path, { force: true }));
    }
    return faults;
  }

  #sound(): Draft[] {
    return this.#drafts.filter(({ fault }) => fault === undefined);
  }

  async #writeDurably({ draft, bytes }: UnwrittenDraft): Promise<void> {
    const options = { flag: "wx", mode: 0o444, flush: true };
    await attemptAsync([draft], () => this.#few(() => writeFile(draft.path, bytes, options)));
  }

  #shardsOfSound(): string[] {
    return [...new Set(this.#sound().map(({ digest }) => this.#folder.layout.shard(digest)))];
  }

  async #makeShards(): Promise<void> {
    const { layout, shards } = this.#folder;
    const unknown = this.#shardsOfSound().filter((path) => !shards.has(path));
    if (unknown.length === 0) return;
    for (const path of unknown) mkdirSync(path, { recursive: true });
    // Also where another process has made them: it may not have synced yet.
    await syncPath(layout.blobs);
    for (const path of unknown) shards.add(path);
  }

  async #syncNames(): Promise<void> {
    const paths = this.#shardsOfSound();
    if (this.#sync !== undefined && paths.length >= TOGETHER_MIN) return this.#sync.sync();
    await Promise.all(paths.map((path) => this.#few(() => syncPath(path))));
  }
}

/** Synchronous calls take a third of the processor's time that trips to the pool take. */
function writeNow(path: string, bytes: Uint8Array): void {
  const descriptor = openSync(path, "wx", 0o444);
  try {
    for (let at = 0; at < bytes.byteLength; ) at += writeSync(descriptor, bytes, at);
  } finally {
    closeSync(descriptor);
  }
}

/** Runs `step`; where it fails, that is the fault of `drafts`. */
function attempt(drafts: readonly Draft[], step: () => void): void {
  try {
    step();
  } catch (cause) {
    for (const draft of drafts) draft.fault = { cause };
  }
}

async function attemptAsync(drafts: readonly Draft[], step: () => Promise<void>): Promise<void> {
  try {
    await step();
  } catch (cause) {
    for (const draft of drafts) draft.fault = { cause };
  }
}
