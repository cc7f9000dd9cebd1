import { closeSync, constants, fstatSync, openSync, read, type Stats } from "node:fs";
import { promisify } from "node:util";
import { CastoreError, type CastoreErrorCode, systemCodeOf } from "../castore-error.ts";
import { readRange } from "../files/read-range.ts";
import type { FileNode } from "../model/node.ts";
import type { PathComponent } from "../model/path-component.ts";
import { BlobRun, RUN_BLOB_BYTES_MAX } from "../services/blob-run.ts";
import type { BlobService } from "../services/blob-service.ts";
import { PiecePool, POOLED_PIECE_BYTES } from "../streams/piece-pool.ts";
import { OrderedVisits, type Turn } from "./ordered-visits.ts";
import type { FileHead, TreeVisitor } from "./tree-visitor.ts";

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

/** Small files that were read, and are stored together. */
export interface SmallFiles {
  readonly files: (FileHead & { readonly contents: Uint8Array })[];
  readonly run: BlobRun;
}

/** Stores files of the local file system as blobs, and lets a visitor see them in order. */
export class FileIngest {
  readonly #blobs: BlobService;
  readonly #visitor: TreeVisitor | undefined;
  readonly #visits = new OrderedVisits();
  readonly #memory = new PiecePool();
  #heldBytes = 0;
  #onRoom: (() => void) | undefined;

  constructor(blobs: BlobService, visitor: TreeVisitor | undefined) {
    this.#blobs = blobs;
    this.#visitor = visitor;
  }

  /** Lets the visitor see what comes after all that it was told to see so far. */
  async #visit(see: (visitor: TreeVisitor) => void): Promise<void> {
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

  /** Small files to be read, and stored by `storeSmall`. */
  begin(): SmallFiles {
    return { files: [], run: new BlobRun(this.#memory) };
  }

  /** Adds the file to `small`, which is not full; false for a large one. Faults as `ingestTree`. */
  read(path: Buffer, { files, run }: SmallFiles): boolean {
    const file = openFile(path);
    try {
      const head = headOf(file);
      if (head.size > RUN_BLOB_BYTES_MAX) return false;
      const contents = run.add(head.size);
      readWhole(file, contents);
      files.push({ ...head, contents });
      return true;
    } finally {
      closeSync(file.fd);
    }
  }

  /** Stores what was read, and lets the visitor `see` it, and what stands between, in its turn. */
  async storeSmall(
    { files, run }: SmallFiles,
    see: (visitor: TreeVisitor) => void,
  ): Promise<FileNode[]> {
    this.#heldBytes += run.bytes;
    try {
      const visited = this.#visit(see);
      const [put] = await Promise.all([run.put(this.#blobs, visited), visited]);
      return put.map(({ digest, size }, i) => {
        return { type: "file", digest, size, executable: files[i]?.executable === true };
      });
    } finally {
      this.#heldBytes -= run.bytes;
      this.#onRoom?.();
    }
  }

  /** Stores a file of any size. Faults as `ingestTree`. */
  async storeLarge(met: MetFile, signal: AbortSignal | undefined): Promise<FileNode> {
    const file = openFile(met.path);
    this.#heldBytes += LARGE_FILE_BYTES;
    const turn = this.#visitor && this.#visits.turn();
    const pool = new PiecePool();
    try {
      const source = this.#visited(met.name, file, { pool, turn });
      const put = await this.#blobs.put(source, { signal, release: pool.give });
      return { type: "file", ...put, executable: headOf(file).executable };
    } finally {
      turn?.end();
      closeSync(file.fd);
      this.#heldBytes -= LARGE_FILE_BYTES;
      this.#onRoom?.();
    }
  }

  /** The pieces of a large file, each once the visitor has seen it. */
  async *#visited(
    name: PathComponent | undefined,
    file: OpenFile,
    { pool, turn }: { readonly pool: PiecePool; readonly turn: Turn | undefined },
  ): AsyncGenerator<Uint8Array, void, undefined> {
    await turn?.begun;
    this.#visitor?.openFile(name, headOf(file));
    for await (const piece of piecesOf(file, pool)) {
      this.#visitor?.contents?.(piece);
      yield piece;
    }
    this.#visitor?.closeFile();
    turn?.end();
  }
}

interface OpenFile {
  readonly path: Buffer;
  readonly fd: number;
  readonly stats: Stats;
}

function headOf({ stats }: OpenFile): FileHead {
  return { size: stats.size, executable: (stats.mode & 0o100) !== 0 };
}

function openFile(path: Buffer): OpenFile {
  // Neither a symlink nor a FIFO that took the file's place can lead or hold us elsewhere.
  const fd = tried(path, () => openSync(path, OPEN_FLAGS));
  const stats = fstatSync(fd);
  if (stats.isFile()) return { path, fd, stats };
  closeSync(fd);
  throw changed(path);
}

function readWhole(file: OpenFile, contents: Uint8Array): void {
  const range = { start: 0, end: contents.byteLength, at: 0 };
  const count = tried(file.path, () => readRange(file.fd, range, contents));
  if (count < contents.byteLength) throw changed(file.path);
  checkUnchanged(file);
}

/** The file's contents in pieces from `pool`, one of them read ahead. */
async function* piecesOf(
  file: OpenFile,
  pool: PiecePool,
): AsyncGenerator<Uint8Array, void, undefined> {
  const { size } = file.stats;
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
  const now = fstatSync(fd);
  const same = now.size === stats.size && now.mtimeMs === stats.mtimeMs;
  if (!same || now.ctimeMs !== stats.ctimeMs) throw changed(path);
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
