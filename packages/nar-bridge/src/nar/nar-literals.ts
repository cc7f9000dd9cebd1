import type { PathComponent, SymlinkTarget } from "@castore/castore";
import { NAR_TOKENS, paddedLength, paddingOf } from "./nar-token.ts";

/** Takes everything of a NAR but the contents of files, one after the other. */
export interface LiteralSink {
  /** Stays the caller's. */
  add(token: Uint8Array): void;
  length(length: number): void;
  /** With its length and padding; each character is a byte. */
  string(string: string): void;
  zeros(count: number): void;
}

/** Writes the tokens around the contents of files. */
export class NarLiterals {
  readonly #sink: LiteralSink;
  #depth = 0;

  constructor(sink: LiteralSink) {
    this.#sink = sink;
  }

  /** Directories that are open. */
  get depth(): number {
    return this.#depth;
  }

  openDirectory(name: PathComponent | undefined): void {
    this.#openNode(name);
    this.#sink.add(NAR_TOKENS.directory);
    this.#depth++;
  }

  closeDirectory(): void {
    this.#depth--;
    this.#closeNode();
  }

  /** Up to where the contents begin. */
  openFile(
    name: PathComponent | undefined,
    file: { readonly size: number; readonly executable: boolean },
  ): void {
    this.#openNode(name);
    this.#sink.add(NAR_TOKENS.regular);
    if (file.executable) this.#sink.add(NAR_TOKENS.executable);
    this.#sink.add(NAR_TOKENS.contents);
    this.#sink.length(file.size);
  }

  /** From where the contents of `size` bytes end. */
  closeFile(size: number): void {
    this.#sink.zeros(paddingOf(size));
    this.#closeNode();
  }

  symlink(name: PathComponent | undefined, target: SymlinkTarget): void {
    this.#openNode(name);
    this.#sink.add(NAR_TOKENS.symlink);
    this.#sink.add(NAR_TOKENS.target);
    this.#sink.string(target);
    this.#closeNode();
  }

  #openNode(name: PathComponent | undefined): void {
    if (name === undefined) {
      this.#sink.add(NAR_TOKENS.start);
      return;
    }
    this.#sink.add(NAR_TOKENS.entry);
    this.#sink.add(NAR_TOKENS.entryName);
    this.#sink.string(name);
    this.#sink.add(NAR_TOKENS.entryNode);
  }

  #closeNode(): void {
    this.#sink.add(NAR_TOKENS.end);
    if (this.#depth > 0) this.#sink.add(NAR_TOKENS.end);
  }
}

/** Keeps all of it in a buffer that was measured for it (`measureNar`). */
export class MeasuredLiterals implements LiteralSink {
  readonly #buffer: Buffer;
  #size = 0;

  constructor(bytes: number) {
    this.#buffer = Buffer.alloc(bytes);
  }

  /** Bytes written so far. */
  get size(): number {
    return this.#size;
  }

  /** All of it; throws where it was measured wrongly. */
  bytes(): Uint8Array {
    if (this.#size !== this.#buffer.byteLength) {
      throw new Error(`NAR of ${this.#size} literal bytes: measured ${this.#buffer.byteLength}`);
    }
    return this.#buffer;
  }

  add(token: Uint8Array): void {
    this.#buffer.set(token, this.#size);
    this.#size += token.byteLength;
  }

  length(length: number): void {
    this.#buffer.writeUInt32LE(length % 2 ** 32, this.#size);
    this.#buffer.writeUInt32LE(Math.floor(length / 2 ** 32), this.#size + 4);
    this.#size += 8;
  }

  string(string: string): void {
    this.length(string.length);
    this.#buffer.write(string, this.#size, "latin1");
    this.#size += paddedLength(string.length);
  }

  zeros(count: number): void {
    this.#size += count;
  }
}
