import type { PathComponent, SymlinkTarget } from "@castore/castore";
import { NAR_TOKENS, paddedLength, paddingOf } from "./nar-token.ts";

/**
 * Writes everything of a NAR but the contents of files, one after the other, into a buffer that
 * was measured for it (`measureNar`).
 */
export class NarLiterals {
  readonly #buffer: Buffer;
  #size = 0;
  #depth = 0;

  constructor(bytes: number) {
    this.#buffer = Buffer.alloc(bytes);
  }

  /** Bytes written so far. */
  get size(): number {
    return this.#size;
  }

  openDirectory(name: PathComponent | undefined): void {
    this.#openNode(name);
    this.#add(NAR_TOKENS.directory);
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
    this.#add(NAR_TOKENS.regular);
    if (file.executable) this.#add(NAR_TOKENS.executable);
    this.#add(NAR_TOKENS.contents);
    this.#length(file.size);
  }

  /** From where the contents of `size` bytes end. */
  closeFile(size: number): void {
    this.#size += paddingOf(size);
    this.#closeNode();
  }

  symlink(name: PathComponent | undefined, target: SymlinkTarget): void {
    this.#openNode(name);
    this.#add(NAR_TOKENS.symlink);
    this.#add(NAR_TOKENS.target);
    this.#string(target);
    this.#closeNode();
  }

  /** All of it; throws where it was measured wrongly. */
  bytes(): Uint8Array {
    if (this.#size !== this.#buffer.byteLength) {
      throw new Error(`NAR of ${this.#size} literal bytes: measured ${this.#buffer.byteLength}`);
    }
    return this.#buffer;
  }

  #openNode(name: PathComponent | undefined): void {
    if (name === undefined) {
      this.#add(NAR_TOKENS.start);
      return;
    }
    this.#add(NAR_TOKENS.entry);
    this.#add(NAR_TOKENS.entryName);
    this.#string(name);
    this.#add(NAR_TOKENS.entryNode);
  }

  #closeNode(): void {
    this.#add(NAR_TOKENS.end);
    if (this.#depth > 0) this.#add(NAR_TOKENS.end);
  }

  #add(token: Uint8Array): void {
    this.#buffer.set(token, this.#size);
    this.#size += token.byteLength;
  }

  #length(length: number): void {
    this.#buffer.writeUInt32LE(length % 2 ** 32, this.#size);
    this.#buffer.writeUInt32LE(Math.floor(length / 2 ** 32), this.#size + 4);
    this.#size += 8;
  }

  #string(string: string): void {
    this.#length(string.length);
    this.#buffer.write(string, this.#size, "latin1");
    this.#size += paddedLength(string.length);
  }
}
