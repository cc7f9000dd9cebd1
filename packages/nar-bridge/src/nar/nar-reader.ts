import {
  CastoreError,
  PATH_COMPONENT_BYTES_MAX,
  type PathComponent,
  parsePathComponent,
  parseSymlinkTarget,
  SYMLINK_TARGET_BYTES_MAX,
  type SymlinkTarget,
} from "@castore/castore";
import { NAR_DEPTH_MAX, NAR_TOKENS, paddedLength, paddingOf } from "./nar-token.ts";

/** A regular file in a NAR. */
export interface NarFileHead {
  /** Bytes, ≤ 2^53 − 1. */
  readonly size: number;
  readonly executable: boolean;
  /** Where in the NAR the contents begin. */
  readonly narOffset: number;
}

/**
 * What a NAR holds, in its order. A name is undefined for the root, and else ascends bytewise
 * within its directory. What a method throws ends the reading.
 */
export interface NarVisitor {
  openDirectory(name: PathComponent | undefined): void;
  closeDirectory(): void;
  openFile(name: PathComponent | undefined, file: NarFileHead): void;
  /** The next bytes of the file: a view of what was written, unchanged until the call returns. */
  contents?(bytes: Uint8Array): void;
  closeFile(): void;
  symlink(name: PathComponent | undefined, target: SymlinkTarget): void;
}

/**
 * Reads a NAR as it comes, in pieces cut anywhere, without recursion and without copying the
 * contents of files. Throws INVALID for anything but the one encoding of a tree, so also for bytes
 * after its end and for an end before it, and EXHAUSTED for more than NAR_DEPTH_MAX directories
 * within each other. After it has thrown it must not be used again.
 */
export interface NarReader {
  /** Visits what `piece` completes. The piece stays the caller's. */
  write(piece: Uint8Array): void;
  /** Throws INVALID unless a whole NAR was written. */
  end(): void;
  /** Bytes written so far. */
  readonly offset: number;
}

export function createNarReader(visitor: NarVisitor): NarReader {
  return new Reader(visitor);
}

/** What is read next; each but CONTENTS and DONE wants a fixed count of bytes. */
const START = 0;
const TYPE = 1;
const REGULAR = 2;
const EXECUTABLE = 3;
const CONTENTS = 4;
const FILE_END = 5;
const SYMLINK = 6;
const TARGET = 7;
const ENTRY = 8;
const NAME_LENGTH = 9;
const NAME = 10;
const ENTRY_END = 11;
const DONE = 12;

const { start, regular, symlink, directory, entry, entryName, entryNode, end } = NAR_TOKENS;
/** TYPE takes "directory", or one of the others and the length of the token after it. */
const TYPE_BYTES = directory.byteLength;
const executableRest = Buffer.concat([NAR_TOKENS.executable, NAR_TOKENS.contents]).subarray(8);
const contentsRest = NAR_TOKENS.contents.subarray(8);
const targetRest = NAR_TOKENS.target.subarray(8);
const EXECUTABLE_LENGTH = 10;
const CONTENTS_LENGTH = 8;
const TARGET_LENGTH = 6;

class Reader implements NarReader {
  readonly #visitor: NarVisitor;
  #state = START;
  /** How many bytes the state wants. */
  #want = NAR_TOKENS.start.byteLength;
  /** A wanted run of bytes that pieces cut apart. The longest is a target with what follows. */
  readonly #carry = Buffer.alloc(paddedLength(SYMLINK_TARGET_BYTES_MAX) + end.byteLength);
  #carried = 0;
  #offset = 0;
  #name: PathComponent | undefined;
  /** The last name seen in each open directory. */
  readonly #lastNames: string[] = [];
  /** Of the string being read. */
  #length = 0;
  #contentsLeft = 0;

  constructor(visitor: NarVisitor) {
    this.#visitor = visitor;
  }

  get offset(): number {
    return this.#offset;
  }

  write(piece: Uint8Array): void {
    const bytes = Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength);
    const length = bytes.byteLength;
    let at = 0;
    if (this.#carried > 0) at = this.#completeCarry(bytes);
    while (at < length) {
      if (this.#state === CONTENTS) {
        at = this.#takeContents(bytes, at);
        continue;
      }
      if (this.#state === DONE) this.#fail("goes on after its end");
      const end = at + this.#want;
      if (end > length) {
        bytes.copy(this.#carry, 0, at);
        this.#carried = length - at;
        this.#offset += this.#carried;
        return;
      }
      this.#offset += this.#want;
      this.#take(bytes, at);
      at = end;
    }
  }

  end(): void {
    if (this.#state !== DONE) this.#fail("is cut short");
  }

  /** Adds to the carry; takes it once it is whole. Returns how many bytes were used. */
  #completeCarry(bytes: Buffer): number {
    const used = Math.min(this.#want - this.#carried, bytes.byteLength);
    bytes.copy(this.#carry, this.#carried, 0, used);
    this.#carried += used;
    this.#offset += used;
    if (this.#carried === this.#want) {
      this.#carried = 0;
      this.#take(this.#carry, 0);
    }
    return used;
  }

  #takeContents(bytes: Buffer, at: number): number {
    const end = Math.min(at + this.#contentsLeft, bytes.byteLength);
    this.#visitor.contents?.(bytes.subarray(at, end));
    this.#contentsLeft -= end - at;
    this.#offset += end - at;
    if (this.#contentsLeft === 0) this.#expectFileEnd();
    return end;
  }

  #expect(state: number, want: number): void {
    this.#state = state;
    this.#want = want;
  }

  #take(bytes: Buffer, at: number): void {
    switch (this.#state) {
      case START:
        this.#match(bytes, at, start, "a NAR");
        this.#expect(TYPE, TYPE_BYTES);
        break;
      case TYPE:
        this.#takeType(bytes, at);
        break;
      case REGULAR:
        this.#match(bytes, at, contentsRest, "contents");
        this.#openFile(this.#readLength(bytes, at + contentsRest.byteLength), false);
        break;
      case EXECUTABLE:
        this.#match(bytes, at, executableRest, "an executable and its contents");
        this.#openFile(this.#readLength(bytes, at + executableRest.byteLength), true);
        break;
      case FILE_END:
        this.#match(bytes, this.#skipPadding(bytes, at), end, "the end of a file");
        this.#visitor.closeFile();
        this.#endNode();
        break;
      case SYMLINK:
        this.#match(bytes, at, targetRest, "a target");
        this.#takeTargetLength(this.#readLength(bytes, at + targetRest.byteLength));
        break;
      case TARGET:
        this.#takeTarget(bytes, at);
        break;
      case ENTRY:
        this.#takeEntry(bytes, at);
        break;
      case NAME_LENGTH:
        this.#match(bytes, at, entryName, "a name");
        this.#takeNameLength(this.#readLength(bytes, at + entryName.byteLength));
        break;
      case NAME:
        this.#takeName(bytes, at);
        break;
      default:
        this.#match(bytes, at, end, "the end of an entry");
        this.#expect(ENTRY, entry.byteLength);
    }
  }

  #takeType(bytes: Buffer, at: number): void {
    if (matches(bytes, at, directory)) {
      this.#openDirectory();
      return;
    }
    const next = this.#readLength(bytes, at + regular.byteLength);
    if (matches(bytes, at, regular)) {
      if (next === CONTENTS_LENGTH) this.#expect(REGULAR, contentsRest.byteLength + 8);
      else if (next === EXECUTABLE_LENGTH) this.#expect(EXECUTABLE, executableRest.byteLength + 8);
      else this.#fail('"contents" or "executable" must follow "regular"');
    } else if (matches(bytes, at, symlink)) {
      if (next !== TARGET_LENGTH) this.#fail('"target" must follow "symlink"');
      this.#expect(SYMLINK, targetRest.byteLength + 8);
    } else {
      this.#fail("want regular, symlink or directory");
    }
  }

  #openFile(size: number, executable: boolean): void {
    this.#length = size;
    this.#visitor.openFile(this.#name, { size, executable, narOffset: this.#offset });
    this.#contentsLeft = size;
    if (size > 0) this.#state = CONTENTS;
    else this.#expectFileEnd();
  }

  #expectFileEnd(): void {
    this.#expect(FILE_END, paddingOf(this.#length) + end.byteLength);
  }

  #takeTargetLength(length: number): void {
    if (length < 1 || length > SYMLINK_TARGET_BYTES_MAX) {
      this.#fail(`a target must have 1 to ${SYMLINK_TARGET_BYTES_MAX} bytes`);
    }
    this.#length = length;
    this.#expect(TARGET, paddedLength(length) + end.byteLength);
  }

  #takeTarget(bytes: Buffer, at: number): void {
    const target = bytes.subarray(at, at + this.#length);
    const next = this.#skipPadding(bytes, at + this.#length);
    this.#match(bytes, next, end, "the end of a symlink");
    this.#visitor.symlink(this.#name, parseSymlinkTarget(target));
    this.#endNode();
  }

  #openDirectory(): void {
    if (this.#lastNames.length === NAR_DEPTH_MAX) {
      const message = `NAR: more than ${NAR_DEPTH_MAX} directories within each other`;
      throw new CastoreError("EXHAUSTED", message);
    }
    this.#visitor.openDirectory(this.#name);
    this.#lastNames.push("");
    this.#expect(ENTRY, entry.byteLength);
  }

  #takeEntry(bytes: Buffer, at: number): void {
    if (matches(bytes, at, entry)) {
      this.#expect(NAME_LENGTH, entryName.byteLength + 8);
      return;
    }
    this.#match(bytes, at, end, "an entry or the end of a directory");
    this.#lastNames.pop();
    this.#visitor.closeDirectory();
    this.#endNode();
  }

  #takeNameLength(length: number): void {
    if (length < 1 || length > PATH_COMPONENT_BYTES_MAX) {
      this.#fail(`a name must have 1 to ${PATH_COMPONENT_BYTES_MAX} bytes`);
    }
    this.#length = length;
    this.#expect(NAME, paddedLength(length) + entryNode.byteLength);
  }

  #takeName(bytes: Buffer, at: number): void {
    const name = parsePathComponent(bytes.subarray(at, at + this.#length));
    const next = this.#skipPadding(bytes, at + this.#length);
    this.#match(bytes, next, entryNode, "a node");
    const depth = this.#lastNames.length;
    const last = this.#lastNames[depth - 1] ?? "";
    if (name <= last) {
      this.#fail(`name ${JSON.stringify(name)} must not follow ${JSON.stringify(last)}`);
    }
    this.#lastNames[depth - 1] = name;
    this.#name = name;
    this.#expect(TYPE, TYPE_BYTES);
  }

  #endNode(): void {
    if (this.#lastNames.length === 0) this.#expect(DONE, 0);
    else this.#expect(ENTRY_END, end.byteLength);
  }

  /** Where the padding at `at`, after a string of #length bytes, ends. */
  #skipPadding(bytes: Buffer, at: number): number {
    const next = at + paddingOf(this.#length);
    for (let i = at; i < next; i++) if (bytes[i] !== 0) this.#fail("padding must be zero");
    return next;
  }

  /** A u64 below 2^53. */
  #readLength(bytes: Buffer, at: number): number {
    const high = bytes.readUInt32LE(at + 4);
    if (high >= 2 ** 21) this.#fail("want a length below 2^53");
    return high * 2 ** 32 + bytes.readUInt32LE(at);
  }

  #match(bytes: Buffer, at: number, literal: Buffer, what: string): void {
    if (!matches(bytes, at, literal)) this.#fail(`want ${what}`);
  }

  #fail(what: string): never {
    throw new CastoreError("INVALID", `NAR: before byte ${this.#offset}: ${what}`);
  }
}

/** In TypeScript, as a native call costs more than comparing the 16 to 56 bytes of a literal. */
function matches(bytes: Buffer, at: number, literal: Buffer): boolean {
  for (let i = 0; i < literal.length; i++) if (bytes[at + i] !== literal[i]) return false;
  return true;
}
