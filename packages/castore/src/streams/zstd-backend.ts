import { createRequire } from "node:module";
import type { Transform } from "node:stream";
import * as zlib from "node:zlib";
import { CastoreError } from "../castore-error.ts";
import { type ByteTransform, throughDuplex } from "./byte-transform.ts";
import { ZSTD_WINDOW_LOG_MAX } from "./zstd-frame.ts";

/** Some bytes of one frame, and whether they are its last. */
export interface ZstdFramePart {
  readonly bytes: Uint8Array;
  readonly endsFrame: boolean;
}

/** One implementation of zstd. It is given whole, checked frames and throws what it likes. */
export interface ZstdBackend {
  compress(bytes: Uint8Array, level: number): Uint8Array;
  /** The contents of a frame that promises `size`; undefined where they exceed `sizeMax`. */
  decompressFrame(
    frame: Uint8Array,
    size: number | undefined,
    sizeMax: number,
  ): Uint8Array | undefined;
  encoder(level: number): ByteTransform;
  decode(
    parts: AsyncIterableIterator<ZstdFramePart>,
    faultOf: (cause: unknown) => unknown,
  ): AsyncIterable<Uint8Array>;
}

const PIECE_BYTES = 1 << 17;

/** Finds the implementation once; what it returns throws UNSUPPORTED where there is none. */
export function loadZstdBackend(): () => ZstdBackend {
  if (hasZstd(zlib)) {
    const backend = zlibBackend(zlib);
    return () => backend;
  }
  try {
    const binding: NapiBinding = createRequire(import.meta.url)("zstd-napi/binding");
    const backend = napiBackend(binding);
    return () => backend;
  } catch (cause) {
    return () => {
      throw new CastoreError(
        "UNSUPPORTED",
        `zstd: Node ${process.versions.node} has none: use Node 22.15 or newer, or install ` +
          "zstd-napi (npm install zstd-napi@0.0.13, which needs a C++ compiler)",
        { cause },
      );
    };
  }
}

/** What node:zlib has from Node 22.15 on; the types of Node 20 do not know it. */
interface ZlibZstd {
  readonly constants: Readonly<Record<string, number>>;
  zstdCompressSync(bytes: Uint8Array, options: ZlibOptions): Buffer;
  zstdDecompressSync(bytes: Uint8Array, options: ZlibOptions): Buffer;
  createZstdCompress(options: ZlibOptions): Transform;
  createZstdDecompress(options: ZlibOptions): Transform;
}

interface ZlibOptions {
  readonly params: Readonly<Record<number, number>>;
  readonly chunkSize?: number;
  readonly maxOutputLength?: number;
}

function hasZstd(module: object): module is ZlibZstd {
  return "zstdCompressSync" in module && "createZstdDecompress" in module;
}

function zlibBackend(zlib: ZlibZstd): ZstdBackend {
  const levelParameter = zlib.constants.ZSTD_c_compressionLevel ?? 100;
  const windowParameter = zlib.constants.ZSTD_d_windowLogMax ?? 100;
  const decoding = { params: { [windowParameter]: ZSTD_WINDOW_LOG_MAX } };
  return {
    compress(bytes, level) {
      // One output buffer: 424 instead of 700 µs for 256 KiB.
      const chunkSize = Math.max(1024, compressBound(bytes.byteLength));
      return zlib.zstdCompressSync(bytes, { params: { [levelParameter]: level }, chunkSize });
    },
    decompressFrame(frame, size, sizeMax) {
      const limit = Math.min(size ?? sizeMax, sizeMax);
      // With room for one byte more it ends in one round: 65 instead of 291 µs for 256 KiB.
      const chunkSize = size === undefined ? PIECE_BYTES : Math.max(64, size + 1);
      try {
        return zlib.zstdDecompressSync(frame, {
          ...decoding,
          chunkSize,
          maxOutputLength: Math.max(1, limit),
        });
      } catch (error) {
        if (isTooLarge(error)) return undefined;
        throw error;
      }
    },
    encoder(level) {
      return (source) => {
        const options = { params: { [levelParameter]: level }, chunkSize: PIECE_BYTES };
        return throughDuplex(source, zlib.createZstdCompress(options), (cause) => cause);
      };
    },
    async *decode(parts, faultOf) {
      try {
        for (let part = await parts.next(); part.done !== true; part = await parts.next()) {
          const decoder = zlib.createZstdDecompress({ ...decoding, chunkSize: PIECE_BYTES });
          yield* throughDuplex(oneFrame(part.value, parts), decoder, faultOf);
        }
      } finally {
        await parts.return?.();
      }
    },
  };
}

function isTooLarge(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ERR_BUFFER_TOO_LARGE";
}

async function* oneFrame(first: ZstdFramePart, parts: AsyncIterator<ZstdFramePart>) {
  yield first.bytes;
  let ended = first.endsFrame;
  while (!ended) {
    const part = await parts.next();
    if (part.done === true) return;
    yield part.value.bytes;
    ended = part.value.endsFrame;
  }
}

/** What is used of zstd-napi's binding to the C library. */
interface NapiBinding {
  readonly CCtx: new () => NapiContext & {
    compress(to: Uint8Array, from: Uint8Array, level: number): number;
    compressStream2(to: Uint8Array, from: Uint8Array, end: number): NapiProgress;
  };
  readonly DCtx: new () => NapiContext & {
    decompress(to: Uint8Array, from: Uint8Array): number;
    decompressStream(to: Uint8Array, from: Uint8Array): NapiProgress;
  };
  readonly CParameter: { readonly compressionLevel: number };
  readonly DParameter: { readonly windowLogMax: number };
  readonly EndDirective: { readonly continue: number; readonly end: number };
  readonly ResetDirective: { readonly sessionOnly: number };
}

interface NapiContext {
  setParameter(parameter: number, value: number): void;
  reset(what: number): void;
}

/** Bytes left to flush or a hint (0 at the end of a frame), bytes produced, bytes consumed. */
type NapiProgress = readonly [rest: number, produced: number, consumed: number];

function napiBackend(binding: NapiBinding): ZstdBackend {
  // Kept: a fresh context costs 440 µs to compress and 25 µs to decompress with.
  const compressor = new binding.CCtx();
  const decompressor = new binding.DCtx();
  decompressor.setParameter(binding.DParameter.windowLogMax, ZSTD_WINDOW_LOG_MAX);
  return {
    compress(bytes, level) {
      const buffer = Buffer.allocUnsafe(compressBound(bytes.byteLength));
      const length = compressor.compress(buffer, bytes, level);
      // Kept buffers should not pin the room that compression saved.
      return length * 2 < buffer.byteLength
        ? Buffer.from(buffer.subarray(0, length))
        : buffer.subarray(0, length);
    },
    decompressFrame(frame, size, sizeMax) {
      decompressor.reset(binding.ResetDirective.sessionOnly);
      const pieces: Uint8Array[] = [];
      let total = 0;
      let at = 0;
      for (;;) {
        const buffer = Buffer.allocUnsafe(size === undefined ? PIECE_BYTES : size - total);
        const [rest, produced, consumed] = decompressor.decompressStream(
          buffer,
          frame.subarray(at),
        );
        at += consumed;
        total += produced;
        if (total > sizeMax) return undefined;
        pieces.push(buffer.subarray(0, produced));
        if (rest === 0) return joined(pieces);
        if (produced === 0 && consumed === 0) throw new Error("the frame does not end");
      }
    },
    encoder(level) {
      return async function* encode(source) {
        const context = new binding.CCtx();
        context.setParameter(binding.CParameter.compressionLevel, level);
        for await (const piece of source) {
          yield* compressed(context, piece, binding.EndDirective.continue);
        }
        yield* compressed(context, new Uint8Array(0), binding.EndDirective.end);
      };
    },
    async *decode(parts, faultOf) {
      const context = new binding.DCtx();
      context.setParameter(binding.DParameter.windowLogMax, ZSTD_WINDOW_LOG_MAX);
      for await (const { bytes } of parts) {
        try {
          yield* flowing(bytes, 4 * bytes.byteLength, (to, from) =>
            context.decompressStream(to, from),
          );
        } catch (cause) {
          throw faultOf(cause);
        }
      }
    },
  };
}

function* compressed(
  context: InstanceType<NapiBinding["CCtx"]>,
  bytes: Uint8Array,
  directive: number,
): Generator<Uint8Array, void, undefined> {
  yield* flowing(bytes, compressBound(bytes.byteLength), (to, from) =>
    context.compressStream2(to, from, directive),
  );
}

/**
 * What `step` makes of `bytes`, in buffers of about `room` bytes: pieces belong to the receiver,
 * so a small one should not pin a large buffer.
 */
function* flowing(
  bytes: Uint8Array,
  room: number,
  step: (to: Uint8Array, from: Uint8Array) => NapiProgress,
): Generator<Uint8Array, void, undefined> {
  const bufferBytes = Math.min(PIECE_BYTES, Math.max(4096, room));
  let at = 0;
  for (;;) {
    const buffer = Buffer.allocUnsafe(bufferBytes);
    const [rest, produced, consumed] = step(buffer, bytes.subarray(at));
    at += consumed;
    if (produced > 0) yield buffer.subarray(0, produced);
    // In the middle of a frame `rest` is only a hint; a buffer not filled says that all is out.
    if (at === bytes.byteLength && (rest === 0 || produced < bufferBytes)) return;
  }
}

function joined(pieces: readonly Uint8Array[]): Uint8Array {
  const only = pieces[0];
  return pieces.length === 1 && only !== undefined ? only : Buffer.concat(pieces);
}

/** Most bytes that `size` bytes become (zstd's own bound). */
function compressBound(size: number): number {
  return size + (size >>> 8) + (size < 1 << 17 ? ((1 << 17) - size) >>> 11 : 0);
}
