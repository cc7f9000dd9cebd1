import { CastoreError } from "@castore/castore";

/** Largest window that a file may ask for. */
export const XZ_WINDOW_BYTES_MAX = 128 << 20;

const STREAM_MAGIC = 0xfd377a58;
const LZMA2_FILTER = 0x21;
/** Bytes of a block's check, by the type that the stream's header names. */
const CHECK_BYTES = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64];

/** The next field of this many bytes; skipped ones are not gathered. */
type Wanted = { readonly take: number } | { readonly skip: number };
type Walk = Generator<Wanted, void, Buffer>;

/**
 * Follows the layout of an xz file (The .xz File Format, 1.1) beside a decoder that knows no limit,
 * without decoding: only for the window that each block asks for.
 */
export class XzWindowCheck {
  readonly #walk: Walk = walkFile();
  #field = Buffer.alloc(0);
  #filled = 0;
  #skip = 0;

  constructor() {
    this.#want(this.#walk.next());
  }

  /** Throws EXHAUSTED for a window above the limit, CORRUPT where this is no xz file. */
  push(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.byteLength; ) {
      if (this.#skip > 0) {
        const skipped = Math.min(this.#skip, bytes.byteLength - at);
        this.#skip -= skipped;
        at += skipped;
        if (this.#skip === 0) this.#want(this.#walk.next(Buffer.alloc(0)));
        continue;
      }
      const part = bytes.subarray(at, at + this.#field.byteLength - this.#filled);
      this.#field.set(part, this.#filled);
      this.#filled += part.byteLength;
      at += part.byteLength;
      if (this.#filled === this.#field.byteLength) this.#want(this.#walk.next(this.#field));
    }
  }

  #want(step: IteratorResult<Wanted, void>): void {
    let next = step;
    while (!next.done && "skip" in next.value && next.value.skip === 0) {
      next = this.#walk.next(Buffer.alloc(0));
    }
    if (next.done) return;
    if ("skip" in next.value) this.#skip = next.value.skip;
    else {
      this.#field = Buffer.alloc(next.value.take);
      this.#filled = 0;
    }
  }
}

/** Streams and zeros between them; where the file may end, the decoder knows. */
function* walkFile(): Walk {
  for (let streams = 0; ; ) {
    const word = yield { take: 4 };
    if (streams > 0 && word.readUInt32BE() === 0) continue;
    if (word.readUInt32BE() !== STREAM_MAGIC) throw new CastoreError("CORRUPT", "xz: no header");
    const header = yield { take: 8 };
    const checkBytes = CHECK_BYTES[(header[3] ?? 0) & 15] ?? 0;
    for (;;) {
      const size = (yield { take: 1 })[0] ?? 0;
      if (size === 0) break;
      checkBlockHeader(yield { take: 4 * (size + 1) - 1 });
      const length = yield* walkChunks();
      yield { skip: (-length & 3) + checkBytes };
    }
    yield* walkIndex();
    yield { skip: 12 };
    streams++;
  }
}

function checkBlockHeader(header: Buffer): void {
  const flags = header[0] ?? 0;
  let at = 1;
  const integer = (): number => {
    let value = 0;
    for (let scale = 1; at < header.byteLength; scale *= 128) {
      const byte = header[at++] ?? 0;
      value += (byte & 127) * scale;
      if (byte < 128) break;
    }
    return value;
  };
  if (flags & 0x40) integer();
  if (flags & 0x80) integer();
  for (let filter = 0; filter <= (flags & 3); filter++) {
    const id = integer();
    const length = integer();
    const bits = header[at] ?? 0;
    at += length;
    if (id !== LZMA2_FILTER) continue;
    // 2^n or 3 × 2^(n-1), from 4 KiB on.
    if ((2 | (bits & 1)) * 2 ** ((bits >> 1) + 11) > XZ_WINDOW_BYTES_MAX) {
      throw new CastoreError("EXHAUSTED", "xz: window above 128 MiB");
    }
  }
}

/** The LZMA2 chunks of one block; their length. */
function* walkChunks(): Generator<Wanted, number, Buffer> {
  for (let length = 0; ; ) {
    const control = (yield { take: 1 })[0] ?? 0;
    length++;
    if (control === 0) return length;
    const isPacked = control >= 0x80;
    if (!isPacked && control > 2) throw new CastoreError("CORRUPT", "xz: no LZMA2 chunk");
    const sizes = yield { take: isPacked ? 4 : 2 };
    const properties = control >= 0xc0 ? 1 : 0;
    const size = sizes.readUInt16BE(sizes.byteLength - 2) + 1 + properties;
    yield { skip: size };
    length += sizes.byteLength + size;
  }
}

/** What follows the index's first byte. */
function* walkIndex(): Walk {
  let length = 1;
  const records = yield* walkInteger();
  length += records.length;
  for (let integers = 2 * records.value; integers > 0; integers--) {
    length += (yield* walkInteger()).length;
  }
  yield { skip: (-length & 3) + 4 };
}

function* walkInteger(): Generator<Wanted, { value: number; length: number }, Buffer> {
  let value = 0;
  for (let length = 1; length <= 9; length++) {
    const byte = (yield { take: 1 })[0] ?? 0;
    value += (byte & 127) * 128 ** (length - 1);
    if (byte < 128) return { value, length };
  }
  throw new CastoreError("CORRUPT", "xz: no integer");
}
