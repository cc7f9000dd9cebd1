import { createHash } from "node:crypto";
import { setMaxListeners } from "node:events";
import {
  type ByteSource,
  type CallOptions,
  CastoreError,
  cancellable,
  DIRECTORY_BYTES_MAX,
  Directory,
  encodedDirectoryOf,
  type Node,
  type PathComponent,
} from "@castore/castore";
import { ContentQueue } from "./content-queue.ts";
import { NAR_LITERAL_BYTES_MAX, type NarServices } from "./nar-layout.ts";
import {
  createNarReader,
  type NarFileHead,
  type NarReader,
  type NarVisitor,
} from "./nar-reader.ts";
import type { NarIdentity } from "./nar-render.ts";
import { narHashOf } from "./nix-hash.ts";

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
}

/**
 * Takes a NAR into a store while its pieces also go elsewhere. One call at a time. Once a call
 * rejects everything that was under way has ended, and every later call rejects.
 */
export interface NarIngest extends AsyncDisposable {
  /**
   * Takes the next piece, which stays the caller's and unchanged; resolves once there is room for
   * another. Rejects as NarReader throws (INVALID, EXHAUSTED), and with what a put rejects with.
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
const SLICE_BYTES = 1 << 16;
/** A large file is put in pieces of this size. */
const PIECE_BYTES = 1 << 18;

/** A node that is not known before its contents are stored. */
interface Slot {
  node: Node | undefined;
}

interface OpenDirectory {
  readonly slot: Slot;
  readonly entries: { readonly name: PathComponent; readonly slot: Slot }[];
}

/** The file being read. */
interface OpenFile {
  /** Where a large file goes; undefined for a small one. */
  readonly queue: ContentQueue | undefined;
  readonly slot: Slot;
  readonly executable: boolean;
  /** Bytes that `buffer` does not have room for. */
  left: number;
  buffer: Buffer;
  filled: number;
}

class Ingest implements NarIngest {
  readonly #services: NarServices;
  readonly #signal: AbortSignal | undefined;
  readonly #reader: NarReader;
  readonly #hash = createHash("sha256");
  readonly #stop = new AbortController();
  readonly #puts = new Set<Promise<void>>();
  #heldBytes = 0;
  #wake: (() => void) | undefined;
  #failure: { readonly reason: unknown } | undefined;
  #done = false;

  readonly #root: Slot = { node: undefined };
  readonly #open: OpenDirectory[] = [];
  /** Children before parents, as they come. */
  readonly #closed: OpenDirectory[] = [];
  #file: OpenFile | undefined;
  #contentBytes = 0;

  constructor(services: NarServices, { signal, visitor }: IngestNarOptions) {
    this.#services = services;
    this.#signal = signal;
    this.#reader = createNarReader(this.#visitor(visitor));
    // Every put under way may listen.
    setMaxListeners(0, this.#stop.signal);
    if (signal?.aborted) this.#onAbort();
    signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  async write(piece: Uint8Array): Promise<void> {
    for (let at = 0; at < piece.byteLength; at += SLICE_BYTES) {
      const slice = piece.subarray(at, at + SLICE_BYTES);
      this.#try(() => {
        this.#hash.update(slice);
        this.#reader.write(slice);
        this.#checkSize();
      });
      while (this.#isFull()) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
      await this.#rethrow();
    }
  }

  async end(): Promise<IngestedNar> {
    this.#try(() => this.#reader.end());
    await Promise.all(this.#puts);
    await this.#rethrow();
    try {
      const directories = this.#closed.map(storableDirectory);
      const signal = this.#stop.signal;
      if (directories.length > 0) {
        await this.#services.directories.putClosure(directories, { signal });
      }
    } catch (reason) {
      this.#fail(reason);
    }
    await this.#rethrow();
    this.#done = true;
    this.#signal?.removeEventListener("abort", this.#onAbort);
    const narHash = narHashOf(this.#hash.digest());
    return { node: nodeOf(this.#root), narHash, narSize: this.#reader.offset };
  }

  async close(): Promise<void> {
    if (this.#done) return;
    this.#fail(new CastoreError("CLOSED", "NAR: its ingest was given up"));
    await Promise.all(this.#puts);
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
    this.#stop.abort(reason);
    this.#file?.queue?.fail(reason);
    this.#wake?.();
  }

  async #rethrow(): Promise<void> {
    if (this.#failure === undefined) return;
    await Promise.all(this.#puts);
    throw this.#failure.reason;
  }

  #isFull(): boolean {
    if (this.#failure !== undefined) return false;
    return this.#heldBytes > INGEST_HELD_BYTES_MAX || this.#puts.size > INGEST_PUTS_MAX;
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
    const isSmall = size <= INGEST_SMALL_FILE_BYTES_MAX;
    const queue = isSmall ? undefined : new ContentQueue((bytes) => this.#release(bytes));
    const file = { queue, slot, executable, left: size, buffer: Buffer.alloc(0), filled: 0 };
    this.#file = file;
    if (queue !== undefined) this.#put(file, queue.read(), 0);
    else nextBuffer(file, size);
  }

  #addContents(bytes: Uint8Array): void {
    const file = this.#file;
    if (file === undefined) return;
    this.#contentBytes += bytes.byteLength;
    for (let at = 0; at < bytes.byteLength; ) {
      if (file.filled === file.buffer.byteLength) nextBuffer(file, PIECE_BYTES);
      const part = bytes.subarray(at, at + file.buffer.byteLength - file.filled);
      // Copied, as what is put becomes the service's while the piece stays the caller's.
      file.buffer.set(part, file.filled);
      file.filled += part.byteLength;
      at += part.byteLength;
      if (file.queue !== undefined && file.filled === file.buffer.byteLength) {
        this.#heldBytes += file.filled;
        file.queue.push(file.buffer);
      }
    }
  }

  #closeFile(): void {
    const file = this.#file;
    this.#file = undefined;
    if (file === undefined) return;
    if (file.queue !== undefined) file.queue.end();
    else this.#put(file, [file.buffer], file.filled);
  }

  /** Puts a file beside others; the bytes given are held until that is done. */
  #put({ slot, executable }: OpenFile, source: ByteSource, bytes: number): void {
    this.#heldBytes += bytes;
    const { blobs } = this.#services;
    const put = blobs
      .put(source, { signal: this.#stop.signal })
      .then(({ digest, size }) => {
        slot.node = { type: "file", digest, size, executable };
      })
      .catch((reason: unknown) => this.#fail(reason))
      .finally(() => {
        this.#puts.delete(put);
        this.#release(bytes);
      });
    this.#puts.add(put);
  }

  #release(bytes: number): void {
    this.#heldBytes -= bytes;
    this.#wake?.();
  }
}

/** Memory of its own for what comes next: a service may move what it is given to a thread. */
function nextBuffer(file: OpenFile, bytesMax: number): void {
  file.buffer = Buffer.allocUnsafeSlow(Math.min(file.left, bytesMax));
  file.left -= file.buffer.byteLength;
  file.filled = 0;
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
