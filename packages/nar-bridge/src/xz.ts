import { createRequire } from "node:module";
import type { Duplex } from "node:stream";
import { type ByteSource, CastoreError, throughDuplex } from "@castore/castore";
import { sliceXz } from "./xz-slices.ts";

/** What liblzma may take to decode: a window of 128 MiB and its own tables. */
const DECODER_BYTES_MAX = 129 << 20;
/** LZMA_CONCATENATED: a file may be several streams, and must end where one ends. */
const CONCATENATED = 8;
/** What is used of lzma-native, which decodes in the thread pool. */
interface LzmaNative {
  createStream(coder: string, options: object): LzmaStream;
}

type LzmaStream = Duplex & {
  /** Frees the coder's memory, which would otherwise wait for the garbage collector. */
  cleanup(): void;
};

const lzma: LzmaNative = createRequire(import.meta.url)("lzma-native");

/** Decompresses one or more xz streams. Rejects CORRUPT or EXHAUSTED (`decompress`). */
export async function* decodeXz(source: ByteSource): AsyncGenerator<Uint8Array, void, undefined> {
  // One write at a time: lzma-native joins what waits, and holds back nothing that becomes of it.
  const options = {
    memlimit: DECODER_BYTES_MAX,
    flags: CONCATENATED,
    writableHighWaterMark: 1,
  };
  const decoder = lzma.createStream("streamDecoder", options);
  decoder.once("close", () => decoder.cleanup());
  yield* throughDuplex(sliceXz(source), decoder, decodingFault);
}

/** Compresses to one xz stream. */
export async function* encodeXz(
  source: ByteSource,
  level: number,
): AsyncGenerator<Uint8Array, void, undefined> {
  const encoder = lzma.createStream("easyEncoder", { preset: level });
  encoder.once("close", () => encoder.cleanup());
  yield* throughDuplex(source, encoder, (cause) => cause);
}

function decodingFault(cause: unknown): CastoreError {
  const message = cause instanceof Error ? cause.message : String(cause);
  if (message.includes("Memory usage limit")) {
    return new CastoreError("EXHAUSTED", "xz: window above 128 MiB", { cause });
  }
  const what = message.includes("No progress") ? "input is cut short" : message;
  return new CastoreError("CORRUPT", `xz: ${what}`, { cause });
}
