import { createRequire } from "node:module";
import type { Duplex } from "node:stream";
import { type ByteSource, CastoreError, messageOf, throughDuplex } from "@castore/castore";
import { sliceXz } from "./xz-slices.ts";
import { XZ_WINDOW_BYTES_MAX, XzWindowCheck } from "./xz-window.ts";

/** What lzma-native may take to decode: a window of 128 MiB and its own tables. */
const DECODER_BYTES_MAX = XZ_WINDOW_BYTES_MAX + (1 << 20);
/** LZMA_CONCATENATED: a file may be several streams, and must end where one ends. */
const CONCATENATED = 8;
/** What comes out at once at most. */
const OUTPUT_BYTES = 1 << 18;

/** Of liblzma's actions and results (lzma/base.h). */
const RUN = 0;
const FINISH = 3;
const OK = 0;
const STREAM_END = 1;
const BUFFER_ERROR = 10;

/** What is used of lzma-native, which decodes in the thread pool. */
interface LzmaNative {
  createStream(coder: string, options: object): LzmaStream;
}

type LzmaStream = Duplex & {
  /** Frees the coder's memory, which would otherwise wait for the garbage collector. */
  cleanup(): void;
};

const require = createRequire(import.meta.url);

/** Loaded when first used: with its streams it is 20 modules, and most processes meet no xz. */
function lzmaNative(): LzmaNative {
  return require("lzma-native");
}

/**
 * What is used of node-liblzma: its coder, driven here, as its streams take a file that is cut
 * short for whole. One call at a time, and close() only between calls. It decodes 73 MB of code in
 * 0.9 s of CPU where lzma-native, whose binaries are built without optimisation, takes 3.1 s; but
 * it has binaries for fewer machines, and no limit for the window.
 */
interface Liblzma {
  createUnxz(options: { chunkSize: number }): { readonly lzma: LzmaCoder };
}

interface LzmaCoder {
  code(
    action: number,
    ...buffers: [input: Buffer, at: number, length: number, output: Buffer, at: number, done: Done]
  ): void;
  close(): void;
}

type Done = (status: number, inputLeft: number, outputLeft: number) => void;

function loadLiblzma(): Promise<Liblzma | undefined> {
  return import(String("node-liblzma")).catch(() => undefined);
}

/** Decompresses one or more xz streams. Rejects CORRUPT or EXHAUSTED (`decompress`). */
export async function* decodeXz(source: ByteSource): AsyncGenerator<Uint8Array, void, undefined> {
  const liblzma = await loadLiblzma();
  if (liblzma === undefined) yield* decodeWithLzmaNative(source);
  else yield* decodeWithLiblzma(source, liblzma);
}

async function* decodeWithLiblzma(
  source: ByteSource,
  { createUnxz }: Liblzma,
): AsyncGenerator<Uint8Array, void, undefined> {
  const window = new XzWindowCheck();
  const { lzma } = createUnxz({ chunkSize: 1 });
  try {
    for await (const piece of source) {
      window.push(piece);
      yield* runCoder(lzma, RUN, Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength));
    }
    yield* runCoder(lzma, FINISH, Buffer.alloc(0));
  } finally {
    lzma.close();
  }
}

/** All that comes out of `input`, or at the end of the file. */
async function* runCoder(
  lzma: LzmaCoder,
  action: typeof RUN | typeof FINISH,
  input: Buffer,
): AsyncGenerator<Uint8Array, void, undefined> {
  for (let left = input.byteLength; ; ) {
    const output = Buffer.allocUnsafeSlow(OUTPUT_BYTES);
    const at = input.byteLength - left;
    const [status, inputLeft, outputLeft] = await new Promise<Parameters<Done>>((resolve) => {
      lzma.code(action, input, at, left, output, 0, (...result) => resolve(result));
    });
    left = inputLeft;
    if (outputLeft < OUTPUT_BYTES) yield output.subarray(0, OUTPUT_BYTES - outputLeft);
    if (status === STREAM_END) return;
    if (action === RUN && left === 0 && outputLeft > 0) {
      if (status === OK || status === BUFFER_ERROR) return;
    }
    if (status !== OK) throw decodingFault(`status ${status}`);
  }
}

export async function* decodeWithLzmaNative(
  source: ByteSource,
): AsyncGenerator<Uint8Array, void, undefined> {
  // One write at a time: lzma-native joins what waits, and holds back nothing that becomes of it.
  const options = {
    memlimit: DECODER_BYTES_MAX,
    flags: CONCATENATED,
    writableHighWaterMark: 1,
  };
  const decoder = lzmaNative().createStream("streamDecoder", options);
  decoder.once("close", () => decoder.cleanup());
  yield* throughDuplex(sliceXz(source), decoder, decodingFault);
}

/** Compresses to one xz stream. */
export async function* encodeXz(
  source: ByteSource,
  level: number,
): AsyncGenerator<Uint8Array, void, undefined> {
  const encoder = lzmaNative().createStream("easyEncoder", { preset: level });
  encoder.once("close", () => encoder.cleanup());
  yield* throughDuplex(source, encoder, (cause) => cause);
}

function decodingFault(cause: unknown): CastoreError {
  const message = messageOf(cause);
  if (message.includes("Memory usage limit")) {
    return new CastoreError("EXHAUSTED", "xz: window above 128 MiB", { cause });
  }
  const isCut = message.includes("No progress") || message === `status ${BUFFER_ERROR}`;
  const what = isCut ? "input is cut short" : message;
  return new CastoreError("CORRUPT", `xz: ${what}`, { cause });
}
