import { CastoreError } from "../castore-error.ts";
import type { ByteSource } from "./byte-source.ts";
import type { ByteTransform } from "./byte-transform.ts";
import { loadZstdBackend } from "./zstd-backend.ts";
import { ZstdFrameScanner } from "./zstd-frame.ts";

/** zstd's own default: about 150 MB/s on one core. */
export const ZSTD_LEVEL = 3;

const backend = loadZstdBackend();

/**
 * `bytes` as one zstd frame that states its content's size. Synchronous: at 64–512 KiB a hop to
 * another thread would cost a tenth of the work. Throws UNSUPPORTED where this Node has no zstd.
 */
export function zstdCompress(bytes: Uint8Array, level: number = ZSTD_LEVEL): Uint8Array {
  return backend().compress(bytes, level);
}

/**
 * The contents of `bytes`, which are one or more whole zstd frames and nothing else. Throws CORRUPT
 * for anything else, EXHAUSTED for more than `sizeMax` bytes of contents or a window above 128 MiB.
 */
export function zstdDecompress(bytes: Uint8Array, sizeMax: number): Uint8Array {
  if (bytes.byteLength === 0) throw corrupt("input is empty");
  const scanner = new ZstdFrameScanner();
  const contents: Uint8Array[] = [];
  let size = 0;
  let at = 0;
  do {
    const end = scanner.scan(bytes, at);
    scanner.finish();
    const rest = sizeMax - size;
    const promised = scanner.contentSize;
    if (promised !== undefined && promised > rest) throw tooLarge(sizeMax);
    const frame = bytes.subarray(at, end);
    const content = tried(() => backend().decompressFrame(frame, promised, rest));
    if (content === undefined) throw tooLarge(sizeMax);
    size += content.byteLength;
    contents.push(content);
    at = end;
  } while (at < bytes.byteLength);
  const only = contents[0];
  return contents.length === 1 && only !== undefined ? only : Buffer.concat(contents, size);
}

export interface ZstdDecoderOptions {
  /** Most bytes that come out; EXHAUSTED beyond. No limit by default. */
  readonly sizeMax?: number | undefined;
}

/**
 * Decompresses one or more frames. Rejects CORRUPT where the input is empty, cut short or not zstd
 * to its end (what came out before is then unproven), EXHAUSTED beyond `sizeMax` or for a window
 * above 128 MiB.
 */
export function createZstdDecoder(options: ZstdDecoderOptions = {}): ByteTransform {
  const sizeMax = options.sizeMax ?? Number.POSITIVE_INFINITY;
  return async function* decode(source) {
    let size = 0;
    for await (const piece of backend().decode(frameParts(source), corruptContent)) {
      size += piece.byteLength;
      if (size > sizeMax) throw tooLarge(sizeMax);
      yield piece;
    }
  };
}

export interface ZstdEncoderOptions {
  readonly level?: number | undefined;
}

/** Compresses to one frame. Throws UNSUPPORTED where this Node has no zstd. */
export function createZstdEncoder(options: ZstdEncoderOptions = {}): ByteTransform {
  return backend().encoder(options.level ?? ZSTD_LEVEL);
}

/** The pieces of `source`, cut where frames end. */
async function* frameParts(source: ByteSource) {
  const scanner = new ZstdFrameScanner();
  let empty = true;
  for await (const piece of source) {
    let at = 0;
    while (at < piece.byteLength) {
      const end = scanner.scan(piece, at);
      yield { bytes: piece.subarray(at, end), endsFrame: scanner.betweenFrames };
      at = end;
      empty = false;
    }
  }
  if (empty) throw corrupt("input is empty");
  scanner.finish();
}

function tried<T>(decompress: () => T): T {
  try {
    return decompress();
  } catch (cause) {
    throw corruptContent(cause);
  }
}

function corruptContent(cause: unknown): unknown {
  return cause instanceof CastoreError ? cause : corrupt("a frame does not decode", cause);
}

function corrupt(what: string, cause?: unknown): CastoreError {
  return new CastoreError("CORRUPT", `zstd: ${what}`, { cause });
}

function tooLarge(sizeMax: number): CastoreError {
  return new CastoreError("EXHAUSTED", `zstd: contents exceed ${sizeMax} bytes`);
}
