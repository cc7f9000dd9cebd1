import { CastoreError } from "../castore-error.ts";
import { breadthFirst, completeClosure } from "../model/closure-order.ts";
import type { Digest } from "../model/digest.ts";
import type { Directory } from "../model/directory.ts";
import { type EncodedDirectory, encodedDirectoryOf } from "../model/directory-closure.ts";
import { decodeDirectory } from "../model/directory-codec.ts";
import {
  DIRECTORY_STREAM_BYTES_MAX,
  decodeDirectoryStream,
  encodeDirectoryStream,
} from "../model/directory-stream.ts";
import type { DirectoryService } from "../services/directory-service.ts";
import type { ByteSource } from "../streams/byte-source.ts";
import { cancellable } from "../streams/cancellable.ts";
import { createZstdEncoder } from "../streams/zstd.ts";
import { OBJECT_BYTES_MAX, type ObjectStore, objectKey } from "./object-store.ts";

/**
 * Directories in an object store, in snix's layout (docs/object-store.md): one object for each
 * closure, under its root. So only roots are found; a cache in front of it finds the others. What
 * a closure refers to and the caller did not give is taken from the store where it is a root there.
 * The store stays the caller's.
 */
export function createObjectStoreDirectoryService(objects: ObjectStore): DirectoryService {
  const getClosure: DirectoryService["getClosure"] = async function* (root, { signal } = {}) {
    signal?.throwIfAborted();
    const key = objectKey("dirs", root);
    const compressed = await objects.get(key, { signal, bytesMax: OBJECT_BYTES_MAX });
    if (compressed === undefined) return;
    const directories = named(objects, key, decoded([compressed]));
    for await (const directory of cancellable(breadthFirst(root, directories), signal)) {
      yield directory;
    }
  };
  return {
    async get(digest, options) {
      for await (const directory of getClosure(digest, options)) return directory;
      return undefined;
    },
    getClosure,
    async putClosure(directories, options = {}) {
      const { signal } = options;
      const known = new Map<Digest, EncodedDirectory>();
      const stored = (digest: Digest) => getClosure(digest, { signal });
      const all = completeClosure(stored, directories, options);
      let bytes = 0;
      let next = await all.next();
      for (; next.done !== true; next = await all.next()) {
        const encoded = encodedDirectoryOf(next.value);
        known.set(encoded.digest, encoded);
        bytes += encoded.bytes.byteLength + 4;
        if (bytes > DIRECTORY_STREAM_BYTES_MAX) {
          const message = `directory closure: the limit is ${DIRECTORY_STREAM_BYTES_MAX} bytes`;
          throw new CastoreError("EXHAUSTED", message);
        }
      }
      const root = next.value;
      const key = objectKey("dirs", root);
      if ((await objects.head(key, { signal })) !== undefined) return root;
      const pieces: Uint8Array[] = [];
      const payload = encodeDirectoryStream(inOrder(root, known));
      for await (const piece of createZstdEncoder()(payload)) pieces.push(piece);
      await objects.put(key, Buffer.concat(pieces), { signal, ifAbsent: true });
      return root;
    },
  };
}

/** What is below `root`, breadth first in name order. */
function* inOrder(
  root: Digest,
  known: ReadonlyMap<Digest, EncodedDirectory>,
): Generator<Uint8Array, void, undefined> {
  // A Set keeps the order of insertion and may grow while it is iterated.
  const order = new Set([root]);
  for (const digest of order) {
    const encoded = known.get(digest);
    if (encoded === undefined) continue;
    for (const { node } of encoded.directory.entries) {
      if (node.type === "directory") order.add(node.digest);
    }
    yield encoded.bytes;
  }
}

async function* decoded(source: ByteSource): AsyncGenerator<Directory, void, undefined> {
  for await (const bytes of decodeDirectoryStream(source)) yield decodeDirectory(bytes);
}

/** `directories`, with what is wrong in them blamed on the object. */
async function* named(
  objects: ObjectStore,
  key: string,
  directories: AsyncIterable<Directory>,
): AsyncGenerator<Directory, void, undefined> {
  try {
    yield* directories;
  } catch (cause) {
    if (!(cause instanceof CastoreError)) throw cause;
    const code = cause.code === "INVALID" ? "CORRUPT" : cause.code;
    throw new CastoreError(code, `${objects.name}: object ${key}: ${cause.message}`, { cause });
  }
}
