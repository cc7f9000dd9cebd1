import { createHash } from "node:crypto";
import {
  BlobRun,
  type ByteSource,
  type CallOptions,
  CastoreError,
  type ChunkMeta,
  cancellable,
  DIRECTORY_BYTES_MAX,
  Directory,
  encodedDirectoryOf,
  type Node,
  type PathComponent,
  PiecePool,
  RUN_BLOB_BYTES_MAX,
} from "@castore/castore";
import { type NarHash, narHashOf } from "../nix/nix-hash.ts";
import { ContentQueue } from "./content-queue.ts";
import { LentPieces } from "./lent-pieces.ts";
import { NAR_LITERAL_BYTES_MAX, type NarServices } from "./nar-layout.ts";
import {
  createNarReader,
  type NarFileHead,
  type NarReader,
  type NarVisitor,
} from "./nar-reader.ts";
import type { NarIdentity } from "./nar-render.ts";
import type { RunningSha256 } from "./threaded-sha256.ts";

/** Files up to this size are put whole, many at once; larger ones are put as they come. */
export const INGEST_SMALL_FILE_BYTES_MAX = 1 << 20;
/** Most bytes of files that an ingest holds while they are put, beside the file it reads. */
export const INGEST_HELD_BYTES_MAX = 32 << 20;
/** Most files being put before it waits: enough for a store that commits them in groups. */
export const INGEST_PUTS_MAX = 256;

/** What a NAR became. */
export interface IngestedNar extends NarIdentity {
  readonly node: Node;
}

export interface IngestNarOptions extends CallOptions {
  /** Visits the tree as it is read: a NarListingBuilder, for instance. */
  readonly visitor?: NarVisitor | undefined;
  /** Fewer than INGEST_HELD_BYTES_MAX, where many NARs are taken at once. */
  readonly heldBytesMax?: number | undefined;
  /** Most bytes of large files that wait for their put; `heldBytesMax` unless told. */
  readonly queuedBytesMax?: number | undefined;
  /** Most files being put; INGEST_PUTS_MAX unless told. The more, the fewer directory syncs. */
  readonly putsMax?: number | undefined;
  /** What the caller proves the NAR to be: then it is not hashed here. */
  readonly narHash?: NarHash | undefined;
  /** Fresh; what computes the NAR hash instead of the caller's thread. */
  readonly hash?: RunningSha256 | undefined;
  /** Called with pieces whose bytes are needed no more, as of PutBlobOptions. */
  readonly release?: ((piece: Uint8Array) => void) | undefined;
}

/**
 * Takes a NAR into a store while its pieces also go elsewhere. One call at a time. Once a call
 * rejects everything that was under way has ended, and every later call rejects.
 */
export interface NarIngest extends AsyncDisposable {
  /**
   * Takes the next piece, which nobody may change unless it is released: parts of it are put as
   * they are.
   * Resolves once there is room for another. Rejects as NarReader throws (INVALID, EXHAUSTED), and
   * with what a put rejects with.
   */
  write(piece: Uint8Array): Promise<void>;
  /** Resolves once the whole tree is stored as durably as the services do. Call it once. */
  end(): Promise<IngestedNar>;
  /** Gives up where end() was not called or did not resolve. Resolves once nothing is under way. */
  close(): Promise<void>;
}

export function createNarIngest(services: NarServices, options: IngestNarOptions = {}): NarIngest {
  return new Ingest(services, options);
}

/** Takes the NAR that `source` is into `services`; errors as of NarIngest and of the source. */
export async function ingestNar(
  source: ByteSource,
  services: NarServices,
  options: IngestNarOptions = {},
): Promise<IngestedNar> {
  await using ingest = createNarIngest(services, options);
  for await (const piece of cancellable(source, options.signal)) await ingest.write(piece);
  return await ingest.end();
}

/** A piece is read in slices of this size, between which it waits for room. */
const SLICE_BYTES = 1 << 18;

/** A node that is not known before its contents are stored. */
interface Slot {
  node: Node | undefined;
}

interface OpenDirectory {
  readonly slot: Slot;
  readonly entries: { readonly name: PathComponent; readonly slot: Slot }[];
}

/** A file, whose node is known once it is put. */
interface FileSlot {
  readonly slot: Slot;
  readonly executable: boolean;
}

/** The file being read. */
interface OpenFile extends FileSlot {
  /** Where the contents go: the queue of a large file, or memory for a small one. */
  readonly contents: ContentQueue | Uint8Array;
  filled: number;
}

class Ingest implements NarIngest {
  readonly #services: NarServices;
  readonly #signal: AbortSignal | undefined;
  readonly #heldBytesMax: number;
  readonly #queuedBytesMax: number;
  readonly #putsMax: number;
  readonly #reader: NarReader;
  readonly #hash: RunningSha256;
  readonly #narHash: NarHash | undefined;
  readonly #lent: LentPieces;
  /** What is under way, each with a signal of its own: listening to a shared one is O(puts). */
  readonly #underWay = new Map<Promise<void>, AbortController>();
  #heldBytes = 0;
  #queuedBytes = 0;
  /** Files being put. */
  #puts = 0;
  #wake: (() => void) | undefined;
  #failure: { readonly reason: unknown } | undefined;
  #done = false;

  readonly #root: Slot = { node: undefined };
  readonly #open: OpenDirectory[] = [];
  /** Children before parents, as they come. */
  readonly #closed: OpenDirectory[] = [];
  #file: OpenFile | undefined;
  #contentBytes = 0;
  readonly #memory = new PiecePool();
  /** Small files that are put together, once they are many. */
  #run: { readonly blobs: BlobRun; readonly files: FileSlot[] } | undefined;

  constructor(services: NarServices, options: IngestNarOptions) {
    const { signal, visitor, heldBytesMax, narHash, hash } = options;
    this.#services = services;
    this.#lent = new LentPieces(options.release);
    this.#narHash = narHash;
    this.#hash = hash ?? createHash("sha256");
    this.#heldBytesMax = heldBytesMax ?? INGEST_HELD_BYTES_MAX;
    this.#queuedBytesMax = options.queuedBytesMax ?? this.#heldBytesMax;
    this.#putsMax = options.putsMax ?? INGEST_PUTS_MAX;
    this.#signal = signal;
    this.#reader = createNarReader(this.#visitor(visitor));
    if (signal?.aborted) this.#onAbort();
    signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  async write(piece: Uint8Array): Promise<void> {
    this.#lent.begin(piece);
    for (let at = 0; at < piece.byteLength; at += SLICE_BYTES) {
      const slice = piece.subarray(at, at + SLICE_BYTES);
      this.#try(() => {
        if (this.#narHash === undefined) this.#hash.update(slice);
        this.#reader.write(slice);
        this.#checkSize();
      });
      while (this.#isFull()) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
      if (this.#failure !== undefined) await this.#settled();
    }
    this.#lent.end(piece);
  }

  async end(): Promise<IngestedNar> {
    this.#try(() => this.#reader.end());
    this.#putRun();
    await this.#settled();
    this.#start({ bytes: 0, puts: 0 }, (signal) => this.#putDirectories(signal));
    await this.#settled();
    this.#done = true;
    this.#signal?.removeEventListener("abort", this.#onAbort);
    const narHash = this.#narHash ?? narHashOf(this.#hash.digest());
    return { node: nodeOf(this.#root), narHash, narSize: this.#reader.offset };
  }

  async close(): Promise<void> {
    if (this.#done) return;
    this.#fail(new CastoreError("CLOSED", "NAR: its ingest was given up"));
    await Promise.all(this.#underWay.keys());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  readonly #onAbort = (): void => this.#fail(this.#signal?.reason);

  #try(action: () => void): void {
    if (this.#failure !== undefined) return;
    try {
      action();
    } catch (reason) {
      this.#fail(reason);
    }
  }

  /** The first failure counts; it stops everything. */
  #fail(reason: unknown): void {
    if (this.#failure !== undefined) return;
    this.#failure = { reason };
    this.#signal?.removeEventListener("abort", this.#onAbort);
    for (const stop of this.#underWay.values()) stop.abort(reason);
    if (this.#file?.contents instanceof ContentQueue) this.#file.contents.fail(reason);
    this.#wake?.();
  }

  /** Resolves once nothing is under way; rejects with what failed. */
  async #settled(): Promise<void> {
    await Promise.all(this.#underWay.keys());
    if (this.#failure !== undefined) throw this.#failure.reason;
  }

  #isFull(): boolean {
    if (this.#failure !== undefined) return false;
    if (this.#queuedBytes > this.#queuedBytesMax) return true;
    return this.#heldBytes > this.#heldBytesMax || this.#puts > this.#putsMax;
  }

  #checkSize(): void {
    if (this.#reader.offset - this.#contentBytes <= NAR_LITERAL_BYTES_MAX) return;
    const message = `NAR: more than ${NAR_LITERAL_BYTES_MAX} bytes beside the contents of files`;
    throw new CastoreError("EXHAUSTED", message);
  }

  #visitor(also: NarVisitor | undefined): NarVisitor {
    return {
      openDirectory: (name) => {
        also?.openDirectory(name);
        this.#open.push({ slot: this.#addSlot(name), entries: [] });
      },
      closeDirectory: () => {
        also?.closeDirectory();
        const directory = this.#open.pop();
        if (directory !== undefined) this.#closed.push(directory);
      },
      openFile: (name, file) => {
        also?.openFile(name, file);
        this.#openFile(this.#addSlot(name), file);
      },
      contents: (bytes) => {
        also?.contents?.(bytes);
        this.#addContents(bytes);
      },
      closeFile: () => {
        also?.closeFile();
        this.#closeFile();
      },
      symlink: (name, target) => {
        also?.symlink(name, target);
        this.#addSlot(name).node = { type: "symlink", target };
      },
    };
  }

  #addSlot(name: PathComponent | undefined): Slot {
    if (name === undefined) return this.#root;
    const slot: Slot = { node: undefined };
    this.#open.at(-1)?.entries.push({ name, slot });
    return slot;
  }

  #openFile(slot: Slot, { size, executable }: NarFileHead): void {
    if (size > INGEST_SMALL_FILE_BYTES_MAX) {
      const contents = new ContentQueue((bytes) => {
        this.#queuedBytes -= bytes;
        this.#release(bytes);
      });
      this.#file = { slot, executable, contents, filled: 0 };
      this.#put(this.#file, contents.read(), 0);
    } else {
      // Not a view of the piece, which would keep all of it in memory.
      const contents = size > RUN_BLOB_BYTES_MAX ? Buffer.allocUnsafe(size) : this.#inRun(size);
      this.#file = { slot, executable, contents, filled: 0 };
    }
  }

  #inRun(size: number): Uint8Array {
    if (this.#run?.blobs.isFull) this.#putRun();
    this.#run ??= { blobs: new BlobRun(this.#memory), files: [] };
    return this.#run.blobs.add(size);
  }

  #addContents(bytes: Uint8Array): void {
    const file = this.#file;
    if (file === undefined) return;
    this.#contentBytes += bytes.byteLength;
    if (file.contents instanceof ContentQueue) {
      this.#heldBytes += bytes.byteLength;
      this.#queuedBytes += bytes.byteLength;
      this.#lent.lend(bytes);
      file.contents.push(bytes);
    } else {
      file.contents.set(bytes, file.filled);
      file.filled += bytes.byteLength;
    }
  }

  #closeFile(): void {
    const file = this.#file;
    this.#file = undefined;
    if (file === undefined) return;
    if (file.contents instanceof ContentQueue) file.contents.end();
    else if (file.contents.byteLength <= RUN_BLOB_BYTES_MAX) this.#run?.files.push(file);
    else this.#put(file, [file.contents], file.contents.byteLength);
  }

  /** Puts a file beside others; the bytes given are held until that is done. */
  #put(file: FileSlot, source: ByteSource, bytes: number): void {
    this.#start({ bytes, puts: 1 }, async (signal) => {
      const options = { signal, release: this.#lent.giveBack };
      fill([file], [await this.#services.blobs.put(source, options)]);
    });
  }

  /** Puts the small files that have come. */
  #putRun(): void {
    const run = this.#run;
    this.#run = undefined;
    if (run === undefined || this.#failure !== undefined) return;
    const { blobs, files } = run;
    this.#start({ bytes: blobs.bytes, puts: files.length }, async (signal) => {
      fill(files, await blobs.put(this.#services.blobs, Promise.resolve(), { signal }));
    });
  }

  async #putDirectories(signal: AbortSignal): Promise<void> {
    const directories = this.#closed.map(storableDirectory);
    if (directories.length > 0)
      await this.#services.directories.putClosure(directories, { signal });
  }

  #start(
    { bytes, puts }: { readonly bytes: number; readonly puts: number },
    work: (signal: AbortSignal) => Promise<void>,
  ): void {
    const stop = new AbortController();
    this.#heldBytes += bytes;
    this.#puts += puts;
    const done = work(stop.signal)
      .catch((reason: unknown) => this.#fail(reason))
      .finally(() => {
        this.#underWay.delete(done);
        this.#puts -= puts;
        this.#release(bytes);
      });
    this.#underWay.set(done, stop);
  }

  #release(bytes: number): void {
    this.#heldBytes -= bytes;
    this.#wake?.();
  }
}

function fill(files: readonly FileSlot[], blobs: readonly ChunkMeta[]): void {
  files.forEach(({ slot, executable }, i) => {
    const blob = blobs[i];
    if (blob !== undefined) slot.node = { type: "file", ...blob, executable };
  });
}

function nodeOf(slot: Slot): Node {
  if (slot.node === undefined) throw new Error("a node is not known after all was stored");
  return slot.node;
}

/** The directory, whose slot it fills: all in it is known. */
function storableDirectory({ slot, entries }: OpenDirectory): Directory {
  const directory = Directory.ofSorted(
    entries.map((entry) => ({ name: entry.name, node: nodeOf(entry.slot) })),
  );
  const { digest, bytes } = encodedDirectoryOf(directory);
  if (bytes.byteLength > DIRECTORY_BYTES_MAX) {
    const message = `directory of ${entries.length} entries and ${bytes.byteLength} bytes`;
    throw new CastoreError("EXHAUSTED", `${message}: the limit is ${DIRECTORY_BYTES_MAX}`);
  }
  slot.node = { type: "directory", digest, size: directory.size };
  return directory;
}
