import { FUSE_MAJOR, READ_BYTES_MAX } from "./protocol.ts";

/** Bytes of fuse_out_header: where an answer's body starts. */
export const REPLY_HEADER_BYTES = 16;

const ATTR_WORDS = 22;
const ENTRY_WORDS = 10 + ATTR_WORDS;
const DIRENT_BYTES = 24;
const BODY = REPLY_HEADER_BYTES / 4;
const TWO_32 = 2 ** 32;

/** What stat(2) tells. Times are fixed: mtime 1, as Nix sets it, the others 0. */
export interface Attributes {
  readonly ino: number;
  readonly size: number;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

export interface InitReply {
  readonly minor: number;
  readonly readAhead: number;
  readonly flags: number;
  readonly flags2: number;
  readonly stackDepth: number;
}

/**
 * Writes one answer at a time into a buffer of its own, ready for one write(2). `begin`, then what
 * the body is made of, then `end`, which gives the bytes to write. Never allocates.
 */
export class Reply {
  readonly buffer: Buffer;
  readonly #words: Uint32Array;
  #end = REPLY_HEADER_BYTES;

  constructor(bodyMax = READ_BYTES_MAX) {
    const memory = new ArrayBuffer(REPLY_HEADER_BYTES + bodyMax);
    this.buffer = Buffer.from(memory);
    this.#words = new Uint32Array(memory);
  }

  begin(uniqueLow: number, uniqueHigh: number): void {
    this.#words[1] = 0;
    this.#words[2] = uniqueLow;
    this.#words[3] = uniqueHigh;
    this.#end = REPLY_HEADER_BYTES;
  }

  /** Whether the last answer was an error. */
  get failed(): boolean {
    return this.#words[1] !== 0;
  }

  /** Ends an answer; the bytes [0, result) of `buffer` are what to write. */
  end(): number {
    this.#words[0] = this.#end;
    return this.#end;
  }

  /** Ends an answer that says `errno` and nothing else. */
  fail(errno: number): number {
    this.#words[1] = -errno;
    this.#end = REPLY_HEADER_BYTES;
    return this.end();
  }

  /** Says that `length` bytes of body were put into `buffer` at `bodyStart`. */
  wrote(length: number): void {
    this.#end += length;
  }

  /** Where the next byte of the body belongs. */
  get bodyStart(): number {
    return this.#end;
  }

  bytes(bytes: Uint8Array): void {
    this.buffer.set(bytes, this.#end);
    this.#end += bytes.byteLength;
  }

  init({ minor, readAhead, flags, flags2, stackDepth }: InitReply): void {
    this.#clear(16);
    const words = this.#words;
    words[BODY] = FUSE_MAJOR;
    words[BODY + 1] = minor;
    words[BODY + 2] = readAhead;
    words[BODY + 3] = flags;
    // max_background and congestion_threshold: enough for read-ahead of many files at once.
    words[BODY + 4] = 64 | (48 << 16);
    words[BODY + 5] = 4096; // max_write: nothing is written
    words[BODY + 6] = 1; // time_gran: nanoseconds
    words[BODY + 7] = READ_BYTES_MAX / 4096; // max_pages
    words[BODY + 8] = flags2;
    words[BODY + 9] = stackDepth;
  }

  /** GETATTR's answer. */
  attributes(validSeconds: number, attributes: Attributes): void {
    const at = this.#clear(4 + ATTR_WORDS);
    this.#seconds(at, validSeconds);
    this.#attributes(at + 4, attributes);
  }

  /** LOOKUP's answer. */
  entry(validSeconds: number, attributes: Attributes): void {
    const at = this.#clear(ENTRY_WORDS);
    this.#entry(at, validSeconds, attributes);
  }

  /** LOOKUP's answer for a name that is not there, to be cached for `validSeconds`. */
  absent(validSeconds: number): void {
    const at = this.#clear(ENTRY_WORDS);
    this.#seconds(at + 4, validSeconds);
  }

  /** OPEN's answer. */
  open(handle: number, flags: number, backingId: number): void {
    const at = this.#clear(4);
    this.#words[at] = handle;
    this.#words[at + 2] = flags;
    this.#words[at + 3] = backingId;
  }

  /** STATFS' answer: a file system of `bytes` that is full. */
  statfs(bytes: number, files: number): void {
    const at = this.#clear(20);
    this.#u64(at, Math.ceil(bytes / 4096));
    this.#u64(at + 6, files);
    this.#words[at + 10] = 4096;
    this.#words[at + 11] = 255;
    this.#words[at + 12] = 4096;
  }

  /** GETXATTR's and LISTXATTR's answer to a size of 0. */
  xattrLength(length: number): void {
    const at = this.#clear(2);
    this.#words[at] = length;
  }

  /**
   * READDIR's next entry, `next` being the cursor behind it; false where it would pass `limit`
   * bytes of body. The name is `names[start, start + length)`.
   */
  dirent(
    { ino, mode }: Pick<Attributes, "ino" | "mode">,
    { names, start, length }: NameSlice,
    { next, limit }: DirentPlace,
  ): boolean {
    const bytes = DIRENT_BYTES + ((length + 7) & ~7);
    if (this.#end - REPLY_HEADER_BYTES + bytes > limit) return false;
    const at = this.#clear(bytes / 4);
    this.#words[at] = ino;
    this.#u64(at + 2, next);
    this.#words[at + 4] = length;
    this.#words[at + 5] = mode >>> 12;
    const target = (at + 6) * 4;
    // A plain loop: subarray and set cost 5 times as much for names of 10 to 30 bytes.
    for (let i = 0; i < length; i++) this.buffer[target + i] = names[start + i] ?? 0;
    return true;
  }

  /** READDIRPLUS' next entry; otherwise as `dirent`. */
  direntPlus(
    validSeconds: number,
    attributes: Attributes,
    name: NameSlice,
    place: DirentPlace,
  ): boolean {
    const bytes = ENTRY_WORDS * 4 + DIRENT_BYTES + ((name.length + 7) & ~7);
    if (this.#end - REPLY_HEADER_BYTES + bytes > place.limit) return false;
    const at = this.#clear(ENTRY_WORDS);
    this.#entry(at, validSeconds, attributes);
    return this.dirent(attributes, name, place);
  }

  /** READDIRPLUS' next entry with a name and a type only, as for "." and "..". */
  direntPlusName(
    attributes: Pick<Attributes, "ino" | "mode">,
    name: NameSlice,
    place: DirentPlace,
  ): boolean {
    const bytes = ENTRY_WORDS * 4 + DIRENT_BYTES + ((name.length + 7) & ~7);
    if (this.#end - REPLY_HEADER_BYTES + bytes > place.limit) return false;
    this.#clear(ENTRY_WORDS);
    return this.dirent(attributes, name, place);
  }

  #entry(at: number, validSeconds: number, attributes: Attributes): void {
    this.#words[at] = attributes.ino;
    this.#seconds(at + 4, validSeconds);
    this.#seconds(at + 6, validSeconds);
    this.#attributes(at + 10, attributes);
  }

  #attributes(at: number, { ino, size, mode, uid, gid }: Attributes): void {
    const words = this.#words;
    words[at] = ino;
    this.#u64(at + 2, size);
    this.#u64(at + 4, Math.ceil(size / 512));
    words[at + 8] = 1; // mtime
    words[at + 15] = mode;
    words[at + 16] = 1; // nlink
    words[at + 17] = uid;
    words[at + 18] = gid;
    words[at + 20] = 4096; // blksize
  }

  #seconds(at: number, seconds: number): void {
    this.#u64(at, seconds);
  }

  #u64(at: number, value: number): void {
    this.#words[at] = value % TWO_32;
    this.#words[at + 1] = value / TWO_32;
  }

  /** Takes the next `count` words, zeroed; the index of the first. */
  #clear(count: number): number {
    const at = this.#end / 4;
    this.#words.fill(0, at, at + count);
    this.#end += count * 4;
    return at;
  }
}

/** A name in place. */
export interface NameSlice {
  readonly names: Uint8Array;
  readonly start: number;
  readonly length: number;
}

export interface DirentPlace {
  /** The cursor that continues behind the entry. */
  readonly next: number;
  /** Most bytes of the answer's body. */
  readonly limit: number;
}
