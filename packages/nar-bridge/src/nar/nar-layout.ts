import {
  type BlobReader,
  type BlobService,
  byteStringText,
  type CallOptions,
  CastoreError,
  clipRange,
  type DirectoryService,
  type FileNode,
  inParallel,
  type Node,
  type PathComponent,
  type StreamOptions,
} from "@castore/castore";
import { createNarListingBuilder, type ListedNode } from "./nar-listing.ts";
import { MeasuredLiterals, NarLiterals } from "./nar-literals.ts";
import { loadNarTree, measureNar, type NarTree, walkNarTree } from "./nar-tree.ts";

/** Most bytes of a NAR that are not contents of files: about a million entries. */
export const NAR_LITERAL_BYTES_MAX = 256 << 20;

/** Files up to this size are read ahead, READ_AHEAD_FILES of them; larger ones are passed on. */
const SMALL_FILE_BYTES = 1 << 16;
const READ_AHEAD_FILES = 16;
/** What is gathered into one piece. */
const PIECE_BYTES = 1 << 18;

/** Where a tree's blobs and directories are. */
export interface NarServices {
  readonly blobs: BlobService;
  readonly directories: DirectoryService;
}

/**
 * A NAR laid out in memory but for the contents of its files: their places are known, and they are
 * read when they are asked for. May be streamed any number of times, also at once.
 */
export interface NarLayout {
  /** Bytes of the NAR. */
  readonly size: number;
  /** Those that are no contents of files: these it holds. */
  readonly literalBytes: number;
  /**
   * The bytes [start, end) in pieces of up to 1 MiB, which become the receiver's; clipped as
   * `clipRange` does. Reads small files ahead. Rejects INCOMPLETE where a blob is missing, CORRUPT
   * where one is shorter or longer than its node says; both name the file.
   */
  stream(start?: number, end?: number, options?: StreamOptions): AsyncIterable<Uint8Array>;
  /** What a `.ls` file says of it. */
  listing(): ListedNode;
}

/**
 * Lays out the NAR of `root`. Rejects INCOMPLETE where a directory is missing, EXHAUSTED above
 * NAR_DEPTH_MAX or NAR_LITERAL_BYTES_MAX.
 */
export async function createNarLayout(
  root: Node,
  services: NarServices,
  options: CallOptions = {},
): Promise<NarLayout> {
  return new Layout(await loadNarTree(root, services.directories, options), services.blobs);
}

/** Literal bytes and then a part of a file, either of which may be empty. */
interface Section {
  readonly literal: Uint8Array;
  readonly file: FilePart | undefined;
}

interface FilePart {
  readonly index: number;
  readonly node: FileNode;
  readonly start: number;
  readonly end: number;
}

class Layout implements NarLayout {
  readonly size: number;
  readonly literalBytes: number;
  readonly #tree: NarTree;
  readonly #blobs: BlobService;
  readonly #literals: Uint8Array;
  readonly #files: FileNode[] = [];
  /** By file: where in the NAR its contents begin, and how many bytes of contents came before. */
  readonly #offsets: Float64Array;
  readonly #contentsBefore: Float64Array;

  constructor(tree: NarTree, blobs: BlobService) {
    const { files, contentBytes, literalBytes } = measureNar(tree);
    if (literalBytes > NAR_LITERAL_BYTES_MAX) {
      const message = `NAR: ${literalBytes} bytes beside the contents of files`;
      throw new CastoreError("EXHAUSTED", `${message}: the limit is ${NAR_LITERAL_BYTES_MAX}`);
    }
    this.#tree = tree;
    this.#blobs = blobs;
    this.size = literalBytes + contentBytes;
    this.literalBytes = literalBytes;
    this.#offsets = new Float64Array(files);
    this.#contentsBefore = new Float64Array(files);
    this.#literals = this.#write(new MeasuredLiterals(literalBytes));
  }

  listing(): ListedNode {
    const builder = createNarListingBuilder();
    let index = 0;
    walkNarTree(this.#tree, {
      ...builder,
      file: (name, { size, executable }) => {
        builder.openFile(name, { size, executable, narOffset: this.#offsets[index++] ?? 0 });
      },
    });
    return builder.finish();
  }

  async *stream(
    start?: number,
    end?: number,
    { signal, pool }: StreamOptions = {},
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const range = clipRange(this.size, start, end);
    const gathered = new GatheredBytes();
    const sections = inParallel(
      this.#sections(range.start, range.end),
      READ_AHEAD_FILES,
      async (section, signal) => ({ ...section, contents: await this.#readSmall(section, signal) }),
      { signal },
    );
    for await (const { literal, file, contents } of sections) {
      yield* gathered.copy(literal);
      if (file === undefined) continue;
      if (contents !== undefined) {
        for (const piece of contents) yield* gathered.copy(piece);
        continue;
      }
      for await (const piece of this.#readFile(file, { signal, pool })) yield* gathered.add(piece);
    }
    yield* gathered.take();
  }

  /** Fills in where files stand; returns the literal bytes. */
  #write(measured: MeasuredLiterals): Uint8Array {
    const literals = new NarLiterals(measured);
    let before = 0;
    walkNarTree(this.#tree, {
      openDirectory: (name) => literals.openDirectory(name),
      closeDirectory: () => literals.closeDirectory(),
      symlink: (name, target) => literals.symlink(name, target),
      file: (name, node) => {
        literals.openFile(name, node);
        const index = this.#files.push(node) - 1;
        this.#offsets[index] = measured.size + before;
        this.#contentsBefore[index] = before;
        before += node.size;
        literals.closeFile(node.size);
      },
    });
    return measured.bytes();
  }

  /** What [start, end) is made of. */
  *#sections(start: number, end: number): Generator<Section, void, undefined> {
    let at = start;
    const contentBytes = this.size - this.#literals.byteLength;
    for (let index = this.#fileBefore(start); at < end; index++) {
      const node = this.#files[index];
      const before = this.#contentsBefore[index] ?? contentBytes;
      const offset = this.#offsets[index] ?? this.size;
      const literalEnd = Math.max(at, Math.min(offset, end));
      const literal = this.#literals.subarray(at - before, literalEnd - before);
      const fileStart = Math.max(0, literalEnd - offset);
      const fileEnd = node === undefined ? 0 : Math.min(node.size, end - offset);
      const isPart = node !== undefined && fileStart < fileEnd;
      yield { literal, file: isPart ? { index, node, start: fileStart, end: fileEnd } : undefined };
      at = isPart ? offset + fileEnd : literalEnd;
    }
  }

  /** The last file that begins at or before `offset`, or the first of all. */
  #fileBefore(offset: number): number {
    let low = 0;
    let high = this.#offsets.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#offsets[middle] ?? 0) <= offset) low = middle + 1;
      else high = middle;
    }
    return Math.max(0, low - 1);
  }

  /** The contents of a small file; undefined for a large one or none. */
  async #readSmall({ file }: Section, signal: AbortSignal): Promise<Uint8Array[] | undefined> {
    if (file === undefined || file.end - file.start > SMALL_FILE_BYTES) return undefined;
    const reader = await this.#open(file, signal);
    const { contents } = reader;
    if (contents !== undefined) {
      await reader.close();
      return [contents.subarray(file.start, file.end)];
    }
    const pieces: Uint8Array[] = [];
    for await (const piece of this.#read(reader, file, { signal })) pieces.push(piece);
    return pieces;
  }

  async *#readFile(
    file: FilePart,
    options: StreamOptions,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    yield* this.#read(await this.#open(file, options.signal), file, options);
  }

  async #open({ index, node }: FilePart, signal: AbortSignal | undefined): Promise<BlobReader> {
    const reader = await this.#blobs.open(node.digest, { signal });
    if (reader === undefined) {
      throw this.#fault("INCOMPLETE", index, `blob ${node.digest} is missing`);
    }
    if (reader.size === node.size) return reader;
    await reader.close();
    const message = `blob ${node.digest} has ${reader.size} bytes, want ${node.size}`;
    throw this.#fault("CORRUPT", index, message);
  }

  /** Reads the part, and closes the reader. */
  async *#read(
    reader: BlobReader,
    { index, node, start, end }: FilePart,
    options: StreamOptions,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    try {
      let left = end - start;
      for await (const piece of reader.stream(start, end, options)) {
        left -= piece.byteLength;
        if (left < 0) throw this.#fault("CORRUPT", index, `blob ${node.digest} goes on too long`);
        yield piece;
      }
      if (left > 0) throw this.#fault("CORRUPT", index, `blob ${node.digest} ends too early`);
    } finally {
      await reader.close();
    }
  }

  #fault(code: "CORRUPT" | "INCOMPLETE", index: number, message: string): CastoreError {
    return new CastoreError(code, `NAR: file ${JSON.stringify(this.#pathOf(index))}: ${message}`);
  }

  /** Found by walking again: paths would cost more memory than all the rest. */
  #pathOf(index: number): string {
    const open: string[] = [];
    let at = 0;
    let path = "";
    const text = (name: PathComponent | undefined) =>
      name === undefined ? "" : byteStringText(name);
    walkNarTree(this.#tree, {
      openDirectory: (name) => void open.push(text(name)),
      closeDirectory: () => void open.pop(),
      symlink: () => undefined,
      file: (name) => {
        if (at++ === index) path = [...open, text(name)].slice(1).join("/");
      },
    });
    return path;
  }
}

/** Gathers small pieces into larger ones. */
class GatheredBytes {
  #buffer = Buffer.allocUnsafe(PIECE_BYTES);
  #filled = 0;

  /** Adds bytes that stay the caller's; yields what became full. */
  *copy(bytes: Uint8Array): Generator<Uint8Array, void, undefined> {
    for (let at = 0; at < bytes.byteLength; ) {
      const part = bytes.subarray(at, at + PIECE_BYTES - this.#filled);
      this.#buffer.set(part, this.#filled);
      this.#filled += part.byteLength;
      at += part.byteLength;
      if (this.#filled === PIECE_BYTES) yield* this.take();
    }
  }

  /** Adds bytes that are given away: a large piece is passed on without a copy. */
  *add(bytes: Uint8Array): Generator<Uint8Array, void, undefined> {
    if (bytes.byteLength < SMALL_FILE_BYTES) {
      yield* this.copy(bytes);
      return;
    }
    yield* this.take();
    yield bytes;
  }

  /** Yields what is left. */
  *take(): Generator<Uint8Array, void, undefined> {
    if (this.#filled === 0) return;
    const filled = this.#buffer.subarray(0, this.#filled);
    this.#filled = 0;
    if (filled.byteLength < PIECE_BYTES / 2) {
      yield Buffer.from(filled);
      return;
    }
    this.#buffer = Buffer.allocUnsafe(PIECE_BYTES);
    yield filled;
  }
}
