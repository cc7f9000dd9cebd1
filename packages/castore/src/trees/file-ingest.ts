import { type BigIntStats, closeSync, constants, fstatSync, openSync, read } from "node:fs";
import { promisify } from "node:util";
import { CastoreError, type CastoreErrorCode, systemCodeOf } from "../castore-error.ts";
import { readRange } from "../files/read-range.ts";
import type { FileNode } from "../model/node.ts";
import type { PathComponent } from "../model/path-component.ts";
import type { BlobService, PutBlobOptions } from "../services/blob-service.ts";
import type { ByteSource } from "../streams/byte-source.ts";
import { PiecePool, POOLED_PIECE_BYTES } from "../streams/piece-pool.ts";
import { OrderedVisits, type Turn } from "./ordered-visits.ts";
import type { FileHead, TreeVisitor } from "./tree-visitor.ts";

/** Files up to this size are read at once. */
const WHOLE_FILE_BYTES_MAX = 1 << 18;
/** Contents under way, beyond which no further file is begun. */
const HELD_BYTES_MAX = 1 << 25;
/** What a large file counts, so that two are under way at most: for its pieces, and its store's. */
const LARGE_FILE_BYTES = HELD_BYTES_MAX / 2;

const OPEN_FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

const readPiece = promisify(read);

/** A file where a walk of a tree meets it. */
export interface MetFile {
  readonly path: Buffer;
  /** Undefined for the root. */
  readonly name: PathComponent | undefined;
}

/** Stores files of the local file system as blobs, and lets a visitor see them in order. */
export class FileIngest {
  readonly #blobs: BlobService;
  readonly #visitor: TreeVisitor | undefined;
  readonly #visits = new OrderedVisits();
  #heldBytes = 0;
  #onRoom: (() => void) | undefined;

  constructor(blobs: BlobService, visitor: TreeVisitor | undefined) {
    this.#blobs = blobs;
    this.#visitor = visitor;
  }

  /** Lets the visitor see what is no file, after all that this and `store` were called for. */
  async visit(see: (visitor: TreeVisitor) => void): Promise<void> {
    const visitor = this.#visitor;
    if (visitor !== undefined) await this.#visits.visit(() => see(visitor));
  }

  /** Resolves once another file may be begun. For one caller at a time. */
  async room(): Promise<void> {
    while (this.#heldBytes >= HELD_BYTES_MAX) {
      await new Promise<void>((resolve) => {
        this.#onRoom = resolve;
      });
    }
  }

  /** Small files are read before this returns its promise. Faults as `ingestTree`. */
  async store(met: MetFile, signal: AbortSignal | undefined): Promise<FileNode> {
    signal?.throwIfAborted();
    const file = openFile(met);
    const isLarge = file.stats.size > WHOLE_FILE_BYTES_MAX;
    const bytes = isLarge ? LARGE_FILE_BYTES : Number(file.stats.size);
    this.#heldBytes += bytes;
    try {
      return await (isLarge ? this.#storeLarge(file, signal) : this.#storeSmall(file));
    } finally {
      this.#heldBytes -= bytes;
      this.#onRoom?.();
    }
  }

  async #storeSmall(file: OpenFile): Promise<FileNode> {
    let contents: Buffer;
    try {
      contents = readWhole(file);
    } finally {
      closeSync(file.fd);
    }
    const visited = this.visit((visitor) => {
      visitor.openFile(file.name, headOf(file));
      visitor.contents?.(contents);
      visitor.closeFile();
    });
    // It is done soon, and a thousand listeners on one signal cost more than all the rest.
    const [node] = await Promise.all([this.#put(file, [contents]), visited]);
    return node;
  }

  async #storeLarge(file: OpenFile, signal: AbortSignal | undefined): Promise<FileNode> {
    const turn = this.#visitor && this.#visits.turn();
    const pool = new PiecePool();
    const source = this.#visited(file, pool, turn);
    try {
      return await this.#put(file, source, { signal, release: pool.give });
    } finally {
      turn?.end();
      closeSync(file.fd);
    }
  }

  /** The pieces of a large file, each once the visitor has seen it. */
  async *#visited(
    file: OpenFile,
    pool: PiecePool,
    turn: Turn | undefined,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    await turn?.begun;
    this.#visitor?.openFile(file.name, headOf(file));
    for await (const piece of piecesOf(file, pool)) {
      this.#visitor?.contents?.(piece);
      yield piece;
    }
    this.#visitor?.closeFile();
    turn?.end();
  }

  async #put(file: OpenFile, source: ByteSource, options: PutBlobOptions = {}): Promise<FileNode> {
    const { digest, size } = await this.#blobs.put(source, options);
    return { type: "file", digest, size, executable: headOf(file).executable };
  }
}

interface OpenFile extends MetFile {
  readonly fd: number;
  readonly stats: BigIntStats;
}

function headOf({ stats }: OpenFile): FileHead {
  return { size: Number(stats.size), executable: (stats.mode & 0o100n) !== 0n };
}

function openFile({ path, name }: MetFile): OpenFile {
  // Neither a symlink nor a FIFO that took the file's place can lead or hold us elsewhere.
  const fd = tried(path, () => openSync(path, OPEN_FLAGS));
  const stats = fstatSync(fd, { bigint: true });
  if (stats.isFile()) return { path, name, fd, stats };
  closeSync(fd);
  throw changed(path);
}

function readWhole(file: OpenFile): Buffer {
  const contents = Buffer.allocUnsafe(Number(file.stats.size));
  const range = { start: 0, end: contents.byteLength, at: 0 };
  const count = tried(file.path, () => readRange(file.fd, range, contents));
  if (count < contents.byteLength) throw changed(file.path);
  checkUnchanged(file);
  return contents;
}

/** The file's contents in pieces from `pool`, one of them read ahead. */
async function* piecesOf(
  file: OpenFile,
  pool: PiecePool,
): AsyncGenerator<Uint8Array, void, undefined> {
  const size = Number(file.stats.size);
  const readAt = async (position: number): Promise<Buffer> => {
    const piece = pool.take(Math.min(POOLED_PIECE_BYTES, size - position));
    const { bytesRead } = await readPiece(file.fd, piece, 0, piece.byteLength, position);
    return piece.subarray(0, bytesRead);
  };
  let next = readAt(0);
  try {
    for (let position = 0; position < size; ) {
      const piece = await next.catch((cause) => {
        throw fileFault(file.path, cause);
      });
      if (piece.byteLength === 0) throw changed(file.path);
      position += piece.byteLength;
      if (position < size) next = readAt(position);
      yield piece;
    }
    checkUnchanged(file);
  } finally {
    // The descriptor must not be closed, and used for another file, under a read.
    await next.catch(() => {});
  }
}

function checkUnchanged({ path, fd, stats }: OpenFile): void {
  const now = fstatSync(fd, { bigint: true });
  const same = now.size === stats.size && now.mtimeNs === stats.mtimeNs;
  if (!same || now.ctimeNs !== stats.ctimeNs) throw changed(path);
}

function changed(path: Buffer): CastoreError {
  return new CastoreError("UNAVAILABLE", `${pathText(path)}: changed while it was read`);
}

/** The result of a call into the file system. Faults as `fileFault` says. */
export function tried<T>(path: Buffer, call: () => T, absent?: CastoreErrorCode): T {
  try {
    return call();
  } catch (cause) {
    throw fileFault(path, cause, absent);
  }
}

/** The failure of a call into the file system; `absent` is the code where nothing is there. */
function fileFault(
  path: Buffer,
  cause: unknown,
  absent: CastoreErrorCode = "UNAVAILABLE",
): CastoreError {
  const code = systemCodeOf(cause) ?? "";
  const codes: Readonly<Record<string, CastoreErrorCode>> = {
    EACCES: "DENIED",
    EPERM: "DENIED",
    EMFILE: "EXHAUSTED",
    ENFILE: "EXHAUSTED",
    ENAMETOOLONG: "EXHAUSTED",
    ENOENT: absent,
    ENOTDIR: absent,
  };
  return new CastoreError(codes[code] ?? "UNAVAILABLE", `${pathText(path)}: ${code}`, { cause });
}

/** `path` for people: what is not UTF-8 shows as U+FFFD. */
export function pathText(path: Buffer): string {
  return path.toString("utf8");
}
