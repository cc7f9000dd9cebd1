import { CastoreError } from "../castore-error.ts";
import { ByteQueue } from "../streams/byte-queue.ts";
import type { ByteSource } from "../streams/byte-source.ts";
import { createZstdDecoder } from "../streams/zstd.ts";
import { DIRECTORY_BYTES_MAX } from "./directory-codec.ts";

/** Most bytes of a stream of directories, uncompressed. */
export const DIRECTORY_STREAM_BYTES_MAX = 256 << 20;

/**
 * Encoded directories, each after its length as a 32-bit big-endian number (docs/protocol.md,
 * section 5), not yet compressed.
 */
export async function* encodeDirectoryStream(
  directories: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const bytes of directories) {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(bytes.byteLength);
    yield length;
    yield bytes;
  }
}

/**
 * The encoded directories in a compressed stream, unchecked. Rejects CORRUPT where it is cut short,
 * EXHAUSTED over a limit.
 */
export async function* decodeDirectoryStream(
  source: ByteSource,
): AsyncGenerator<Buffer, void, undefined> {
  const queue = new ByteQueue();
  let length: number | undefined;
  for await (const piece of createZstdDecoder({ sizeMax: DIRECTORY_STREAM_BYTES_MAX })(source)) {
    queue.push(piece);
    while (true) {
      length ??= queue.take(4)?.readUInt32BE();
      if (length === undefined) break;
      if (length > DIRECTORY_BYTES_MAX) {
        const message = `directory of ${length} bytes: the limit is ${DIRECTORY_BYTES_MAX}`;
        throw new CastoreError("EXHAUSTED", message);
      }
      const bytes = queue.take(length);
      if (bytes === undefined) break;
      length = undefined;
      yield bytes;
    }
  }
  if (length !== undefined || queue.size > 0) {
    throw new CastoreError("CORRUPT", "directory closure: cut short");
  }
}
