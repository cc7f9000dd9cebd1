import {
  type BrotliDecompress,
  constants,
  createBrotliCompress,
  createBrotliDecompress,
  createGunzip,
  createGzip,
  type Gunzip,
} from "node:zlib";
import {
  type ByteSource,
  type ByteTransform,
  CastoreError,
  cancellable,
  createZstdDecoder,
  createZstdEncoder,
  messageOf,
  throughDuplex,
} from "@castore/castore";
import { decodeBzip2 } from "./bzip2-decoder.ts";
import { decodeXz, encodeXz } from "./xz.ts";

/** What a narinfo may name as its Compression, and what is read and written here. */
export const COMPRESSIONS = ["none", "xz", "zstd", "gzip", "bzip2", "br"] as const;

export type Compression = (typeof COMPRESSIONS)[number];

/** `text` as a Compression; undefined where it is none that is known. */
export function parseCompression(text: string): Compression | undefined {
  return COMPRESSIONS.find((compression) => compression === text);
}

export interface DecompressOptions {
  readonly signal?: AbortSignal | undefined;
  /** Exactly so many bytes must come out; CORRUPT otherwise, as soon as it is known. */
  readonly size?: number | undefined;
  /** Most bytes that may come out; EXHAUSTED beyond. */
  readonly sizeMax?: number | undefined;
}

/**
 * The contents of `source`, pulled from it only as the consumer asks. Rejects CORRUPT where the
 * input is empty, cut short, damaged as far as the format can tell, or goes on after its end; what
 * came out before is unproven in any case. Rejects EXHAUSTED for a window above 128 MiB. Stopping
 * frees everything at once. "none" only counts bytes.
 */
export async function* decompress(
  compression: Compression,
  source: ByteSource,
  options: DecompressOptions = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  const { signal, size, sizeMax = Number.POSITIVE_INFINITY } = options;
  let total = 0;
  for await (const piece of DECODERS[compression](cancellable(source, signal))) {
    total += piece.byteLength;
    if (size !== undefined && total > size) throw wrongSize(compression, `over ${size}`, size);
    if (total > sizeMax) {
      throw new CastoreError("EXHAUSTED", `${compression}: contents exceed ${sizeMax} bytes`);
    }
    yield piece;
  }
  if (size !== undefined && total !== size) throw wrongSize(compression, String(total), size);
}

export interface CompressOptions {
  readonly signal?: AbortSignal | undefined;
  /** As the format counts; 6 for xz and gzip, 3 for zstd, 4 for br by default. */
  readonly level?: number | undefined;
}

/** `source` compressed. Throws UNSUPPORTED for bzip2, which is only read. */
export function compress(
  compression: Compression,
  source: ByteSource,
  options: CompressOptions = {},
): AsyncIterable<Uint8Array> {
  return encoderOf(compression, options.level)(cancellable(source, options.signal));
}

const PIECE_BYTES = 1 << 17;

const DECODERS: Readonly<Record<Compression, ByteTransform>> = {
  none: (source) => cancellable(source, undefined),
  xz: decodeXz,
  zstd: createZstdDecoder(),
  gzip: (source) => decodeZlib("gzip", source, createGunzip({ chunkSize: PIECE_BYTES })),
  bzip2: decodeBzip2,
  br: (source) => decodeZlib("br", source, createBrotliDecompress({ chunkSize: PIECE_BYTES })),
};

/** node:zlib overlooks some of what follows the end, but counts what it took. */
async function* decodeZlib(
  name: Compression,
  source: ByteSource,
  decoder: BrotliDecompress | Gunzip,
): AsyncGenerator<Uint8Array, void, undefined> {
  let given = 0;
  async function* counted(): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const piece of source) {
      given += piece.byteLength;
      yield piece;
    }
  }
  yield* throughDuplex(counted(), decoder, (cause) => {
    const message = messageOf(cause);
    return new CastoreError("CORRUPT", `${name}: ${message}`, { cause });
  });
  if (decoder.bytesWritten !== given) {
    throw new CastoreError("CORRUPT", `${name}: input goes on after its end`);
  }
}

function encoderOf(compression: Compression, level: number | undefined): ByteTransform {
  switch (compression) {
    case "none":
      return DECODERS.none;
    case "xz":
      return (source) => encodeXz(source, level ?? 6);
    case "zstd":
      return createZstdEncoder({ level });
    case "gzip":
      return (source) => throughDuplex(source, createGzip({ level: level ?? 6 }), (cause) => cause);
    case "br": {
      const params = { [constants.BROTLI_PARAM_QUALITY]: level ?? 4 };
      return (source) => throughDuplex(source, createBrotliCompress({ params }), (cause) => cause);
    }
    case "bzip2":
      throw new CastoreError("UNSUPPORTED", "bzip2: is only read here, not written");
  }
}

function wrongSize(compression: Compression, got: string, want: number): CastoreError {
  return new CastoreError("CORRUPT", `${compression}: contents of ${got} bytes: want ${want}`);
}
