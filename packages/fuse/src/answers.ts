import type { ContentSource } from "./content-source.ts";
import { type InodeTable, TYPE } from "./inode-table.ts";
import type { Passthrough } from "./passthrough.ts";
import {
  ERRNO,
  FUSE_MAJOR,
  FUSE_MINOR_MAX,
  FUSE_MINOR_MIN,
  INIT_FLAG,
  INIT_FLAG2,
  MODE,
  OPCODE,
  OPEN_FLAG,
  READ_BYTES_MAX,
  ROOT_ID,
} from "./protocol.ts";
import type { Attributes, Reply } from "./reply.ts";
import type { Request } from "./request.ts";

/** Seconds for what never changes: the kernel takes any number; this one is 136 years. */
const FOREVER = 0xffff_ffff;
/** Seconds for which the kernel may remember what a name in the root means, if that may change. */
const ROOT_SECONDS = 1;
const DIGEST_XATTR = "user.snix.castore.";

export interface AnswerOptions {
  readonly uid: number;
  readonly gid: number;
  readonly listRoot: boolean;
  readonly xattr: boolean;
  /** Let the kernel read large blob files itself; it then sends OPEN and RELEASE for each file. */
  readonly passthrough: boolean;
}

/**
 * What `answer` returns where it wrote no answer: nothing is to be sent, or something must be
 * loaded first, after which the same request can be answered.
 */
export const NO_ANSWER = {
  NONE: -1,
  /** A name that the root is not known to have. */
  ROOT_NAME: -2,
  /** The entries of directory `request.nodeId`. */
  ENTRIES: -3,
  /** The names in the root, afresh. */
  ROOT_LISTING: -4,
  /** The bytes of file `request.nodeId` that are asked for. */
  CONTENT: -5,
} as const;

export interface AnswerSources {
  readonly contents: ContentSource;
  readonly options: AnswerOptions;
  /** Only in the thread that sees every OPEN and RELEASE. */
  readonly passthrough?: Passthrough | undefined;
}

/**
 * Answers the kernel's requests from what is at hand, without waiting: one instance in the
 * session's thread, another in the thread that loads what was missing. The answer is in `reply`.
 */
export class Answers {
  readonly reply: Reply;
  readonly #table: InodeTable;
  readonly #contents: ContentSource;
  readonly #options: AnswerOptions;
  readonly #passthrough: Passthrough | undefined;
  readonly #attributes: { -readonly [key in keyof Attributes]: Attributes[key] };
  readonly #name: { names: Uint8Array; start: number; length: number };
  readonly #place = { next: 0, limit: 0 };

  constructor(reply: Reply, table: InodeTable, { contents, options, passthrough }: AnswerSources) {
    this.reply = reply;
    this.#table = table;
    this.#contents = contents;
    this.#options = options;
    this.#passthrough = passthrough;
    this.#name = { names: table.names, start: 0, length: 0 };
    this.#attributes = { ino: 0, size: 0, mode: 0, uid: options.uid, gid: options.gid };
  }

  /** The length of the answer in `reply.buffer`, or one of NO_ANSWER. */
  answer(request: Request): number {
    this.reply.begin(request.uniqueLow, request.uniqueHigh);
    switch (request.opcode) {
      case OPCODE.LOOKUP:
        return this.#lookup(request);
      case OPCODE.GETATTR:
        return this.#getattr(request);
      case OPCODE.READLINK:
        return this.#readlink(request);
      case OPCODE.READ:
        return this.#read(request);
      case OPCODE.READDIR:
        return this.#readdir(request, { plus: false, fresh: false });
      case OPCODE.READDIRPLUS:
        return this.#readdir(request, { plus: true, fresh: false });
      case OPCODE.FORGET:
      case OPCODE.BATCH_FORGET:
        return NO_ANSWER.NONE; // ids live as long as the mount
      case OPCODE.IOCTL:
        return this.reply.fail(ERRNO.ENOTTY); // isatty(): not worth a thought
      case OPCODE.GETXATTR:
      case OPCODE.LISTXATTR:
        return this.#options.xattr ? this.#xattr(request) : this.reply.fail(ERRNO.ENOSYS);
      case OPCODE.STATFS:
        this.reply.statfs(0, this.#table.count);
        return this.reply.end();
      case OPCODE.OPEN:
        return this.#open(request);
      case OPCODE.RELEASE:
        this.#passthrough?.release(request.nodeId);
        return this.reply.end();
      case OPCODE.RELEASEDIR:
      case OPCODE.DESTROY:
        return this.reply.end();
      case OPCODE.INIT:
        return this.#init(request);
      default:
        // Also OPENDIR, which the kernel then no longer sends, and LSEEK: what was not fetched
        // yet is not a hole.
        return this.reply.fail(ERRNO.ENOSYS);
    }
  }

  /** As `answer` for a listing of the root whose names were just loaded. */
  answerListing(request: Request): number {
    this.reply.begin(request.uniqueLow, request.uniqueHigh);
    return this.#readdir(request, { plus: request.opcode === OPCODE.READDIRPLUS, fresh: true });
  }

  /** Answers a LOOKUP in the root: there is no such name. */
  answerAbsent(request: Request): number {
    this.reply.begin(request.uniqueLow, request.uniqueHigh);
    this.reply.absent(ROOT_SECONDS);
    return this.reply.end();
  }

  /** Answers a READ with its bytes. */
  answerContent(request: Request, bytes: readonly Uint8Array[]): number {
    this.reply.begin(request.uniqueLow, request.uniqueHigh);
    for (const piece of bytes) this.reply.bytes(piece);
    return this.reply.end();
  }

  answerError(request: Request, errno: number): number {
    this.reply.begin(request.uniqueLow, request.uniqueHigh);
    return this.reply.fail(errno);
  }

  #init(request: Request): number {
    const minor = request.initMinor;
    if (request.initMajor !== FUSE_MAJOR || minor < FUSE_MINOR_MIN) {
      return this.reply.fail(ERRNO.EPROTO);
    }
    const { PASSTHROUGH } = INIT_FLAG2;
    const passes = this.#passthrough !== undefined && (request.initFlags2 & PASSTHROUGH) !== 0;
    if (!passes) this.#passthrough?.disable();
    const wanted =
      INIT_FLAG.ASYNC_READ |
      INIT_FLAG.DO_READDIRPLUS |
      (passes ? 0 : INIT_FLAG.NO_OPEN_SUPPORT) |
      INIT_FLAG.PARALLEL_DIROPS |
      INIT_FLAG.ABORT_ERROR |
      INIT_FLAG.MAX_PAGES |
      INIT_FLAG.CACHE_SYMLINKS |
      INIT_FLAG.NO_OPENDIR_SUPPORT |
      INIT_FLAG.EXPLICIT_INVAL_DATA |
      INIT_FLAG.INIT_EXT;
    this.reply.init({
      minor: Math.min(minor, FUSE_MINOR_MAX),
      readAhead: Math.max(request.initReadAhead, READ_BYTES_MAX),
      flags: request.initFlags & wanted,
      flags2: passes ? PASSTHROUGH : 0,
      // The file system of the blobs must not be stacked itself; where it is, READ serves.
      stackDepth: passes ? 1 : 0,
    });
    return this.reply.end();
  }

  #lookup(request: Request): number {
    const parent = request.nodeId;
    const table = this.#table;
    if (parent === ROOT_ID) {
      const id = table.rootChild(request);
      if (id === 0 || table.isGone(id) || !table.isHeld(id)) return NO_ANSWER.ROOT_NAME;
      this.reply.entry(this.#validSeconds(id), this.#attributesOf(id));
      return this.reply.end();
    }
    const fault = this.#notDirectory(parent);
    if (fault !== 0) return this.reply.fail(fault);
    if (!table.isPopulated(parent)) return NO_ANSWER.ENTRIES;
    const id = table.child(parent, request);
    if (id === 0) this.reply.absent(FOREVER);
    else this.reply.entry(FOREVER, this.#attributesOf(id));
    return this.reply.end();
  }

  #getattr(request: Request): number {
    const id = request.nodeId;
    if (!this.#table.has(id)) return this.reply.fail(ERRNO.ENOENT);
    this.reply.attributes(FOREVER, this.#attributesOf(id));
    return this.reply.end();
  }

  #readlink(request: Request): number {
    const id = request.nodeId;
    const table = this.#table;
    if (!table.has(id)) return this.reply.fail(ERRNO.ENOENT);
    if (table.typeOf(id) !== TYPE.SYMLINK) return this.reply.fail(ERRNO.EINVAL);
    const start = table.targetStartOf(id);
    this.reply.bytes(table.names.subarray(start, start + table.targetLengthOf(id)));
    return this.reply.end();
  }

  #read(request: Request): number {
    const id = request.nodeId;
    const table = this.#table;
    const type = table.typeOf(id);
    if (type !== TYPE.FILE && type !== TYPE.EXECUTABLE) {
      return this.reply.fail(type === TYPE.DIRECTORY ? ERRNO.EISDIR : ERRNO.ENOENT);
    }
    const { start, end } = readRange(request, table.sizeOf(id));
    if (end > start) {
      if (table.parentOf(id) === ROOT_ID && !table.isHeld(id)) return NO_ANSWER.CONTENT;
      const target = this.reply.buffer;
      const at = this.reply.bodyStart;
      if (!this.#contents.read({ id, start, end }, target, at)) return NO_ANSWER.CONTENT;
      this.reply.wrote(end - start);
    }
    return this.reply.end();
  }

  #open(request: Request): number {
    const id = request.nodeId;
    const passthrough = this.#passthrough;
    if (passthrough === undefined || !passthrough.enabled) return this.reply.fail(ERRNO.ENOSYS);
    const backing = passthrough.open(id, this.#table.sizeOf(id));
    if (backing === undefined) this.reply.open(0, OPEN_FLAG.KEEP_CACHE, 0);
    else this.reply.open(0, OPEN_FLAG.PASSTHROUGH, backing);
    return this.reply.end();
  }

  #readdir(request: Request, { plus, fresh }: { plus: boolean; fresh: boolean }): number {
    const id = request.nodeId;
    const isRoot = id === ROOT_ID;
    if (isRoot && !this.#options.listRoot) return this.reply.fail(ERRNO.EPERM);
    const fault = this.#notDirectory(id);
    if (fault !== 0) return this.reply.fail(fault);
    if (isRoot ? request.readOffset === 0 && !fresh : !this.#table.isPopulated(id)) {
      return isRoot ? NO_ANSWER.ROOT_LISTING : NO_ANSWER.ENTRIES;
    }
    this.#entries(request, plus);
    return this.reply.end();
  }

  /** Entries from the cursor on: 0 is ".", 1 is "..", then the children in order of id. */
  #entries(request: Request, plus: boolean): void {
    const id = request.nodeId;
    const table = this.#table;
    const isRoot = id === ROOT_ID;
    const count = isRoot ? table.rootCount : table.childCountOf(id);
    const first = isRoot ? 0 : table.firstChildOf(id);
    this.#place.limit = Math.min(request.readSize, READ_BYTES_MAX);
    for (let cursor = request.readOffset; cursor < count + 2; cursor++) {
      this.#place.next = cursor + 1;
      if (cursor < 2) {
        if (!this.#dots(cursor === 0 ? id : table.parentOf(id), cursor + 1, plus)) return;
        continue;
      }
      const child = isRoot ? table.rootChildAt(cursor - 2) : first + cursor - 2;
      if (isRoot && table.isGone(child)) continue;
      this.#name.start = table.nameStartOf(child);
      this.#name.length = table.nameLengthOf(child);
      this.#name.names = table.names;
      const attributes = this.#attributesOf(child);
      const fits = plus
        ? this.reply.direntPlus(
            isRoot ? this.#validSeconds(child) : FOREVER,
            attributes,
            this.#name,
            this.#place,
          )
        : this.reply.dirent(attributes, this.#name, this.#place);
      if (!fits) return;
    }
  }

  #dots(id: number, length: number, plus: boolean): boolean {
    const name = { names: DOTS, start: 0, length };
    const attributes = { ino: id === 0 ? ROOT_ID : id, mode: MODE.DIRECTORY };
    return plus
      ? this.reply.direntPlusName(attributes, name, this.#place)
      : this.reply.dirent(attributes, name, this.#place);
  }

  #xattr(request: Request): number {
    const id = request.nodeId;
    const type = this.#table.typeOf(id);
    if (type === 0) return this.reply.fail(ERRNO.ENOENT);
    const has = id !== ROOT_ID && type !== TYPE.SYMLINK;
    const name = `${DIGEST_XATTR}${type === TYPE.DIRECTORY ? "directory" : "blob"}.digest`;
    let value = has ? `${name}\0` : "";
    if (request.opcode === OPCODE.GETXATTR) {
      if (!has || request.xattrName !== name) return this.reply.fail(ERRNO.ENODATA);
      const digest = Buffer.from(this.#table.digestOf(id), "hex");
      value = `blake3-${digest.toString("base64")}`;
    }
    if (request.xattrSize === 0) this.reply.xattrLength(value.length);
    else if (request.xattrSize < value.length) return this.reply.fail(ERRNO.ERANGE);
    else this.reply.bytes(Buffer.from(value, "latin1"));
    return this.reply.end();
  }

  /** 0 where `id` is a directory, otherwise the errno. */
  #notDirectory(id: number): number {
    const type = this.#table.typeOf(id);
    if (type === TYPE.DIRECTORY) return 0;
    return type === 0 ? ERRNO.ENOENT : ERRNO.ENOTDIR;
  }

  #validSeconds(rootChild: number): number {
    return this.#table.isFinal(rootChild) ? FOREVER : ROOT_SECONDS;
  }

  /** In an object that the next call overwrites. */
  #attributesOf(id: number): Attributes {
    const attributes = this.#attributes;
    attributes.ino = id;
    attributes.size = this.#table.sizeOf(id);
    attributes.mode = this.#table.modeOf(id);
    return attributes;
  }
}

const DOTS = Buffer.from("..");

/** The bytes that a READ asks for, cut at the file's end and at what one answer holds. */
export function readRange(request: Request, size: number): { start: number; end: number } {
  const start = Math.min(request.readOffset, size);
  const end = Math.min(start + Math.min(request.readSize, READ_BYTES_MAX), size);
  return { start, end };
}
