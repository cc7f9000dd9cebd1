import { Readable, type Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import * as zlib from "node:zlib";
import { CastoreError, createZstdDecoder } from "@castore/castore";

/** The encodings to ask for. Without zstd, which Node 20 needs a native module for. */
export const ACCEPTED_ENCODINGS = "gzip, br";

/** The encoding that a header value names; undefined for none. */
export function parseContentEncoding(value: string | undefined): string | undefined {
  const name = value?.trim().toLowerCase() ?? "";
  return name === "" || name === "identity" ? undefined : name;
}

/**
 * Undoes one Content-Encoding: those asked for, and zstd, in which objects may be stored. Throws
 * UNSUPPORTED for others. The body rejects CORRUPT where it does not decode.
 */
export function decodeContent(
  body: AsyncIterable<Uint8Array>,
  encoding: string,
  name: string,
): AsyncIterable<Uint8Array> {
  switch (encoding) {
    case "gzip":
    case "x-gzip":
      return through(body, zlib.createGunzip(), name);
    case "br":
      return through(body, zlib.createBrotliDecompress(), name);
    case "zstd":
      return createZstdDecoder()(body);
    default:
      throw new CastoreError("UNSUPPORTED", `${name}: unknown Content-Encoding ${encoding}`);
  }
}

async function* through(
  body: AsyncIterable<Uint8Array>,
  decoder: Transform,
  name: string,
): AsyncGenerator<Uint8Array> {
  const source = Readable.from(body, { objectMode: false });
  const flow = pipeline(source, decoder).catch(() => {}); // the loop below meets the error too
  try {
    for await (const piece of decoder) yield piece;
  } catch (cause) {
    if (source.errored !== null) throw source.errored;
    throw new CastoreError("CORRUPT", `${name}: does not decode`, { cause });
  } finally {
    source.destroy();
    decoder.destroy();
    await flow;
  }
}
