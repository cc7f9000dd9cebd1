import type { ByteSource } from "./blob-service.ts";
import { ByteQueue } from "./byte-queue.ts";
import { cancellable } from "./cancellable.ts";
import { CastoreError } from "./castore-error.ts";
import { breadthFirst, completeClosure } from "./closure-order.ts";
import type { Digest } from "./digest.ts";
import type { Directory } from "./directory.ts";
import { type EncodedDirectory, encodedDirectoryOf } from "./directory-closure.ts";
import { DIRECTORY_BYTES_MAX, decodeDirectory } from "./directory-codec.ts";
import type { DirectoryService } from "./directory-service.ts";
import { OBJECT_BYTES_MAX, type ObjectStore, objectKey } from "./object-store.ts";
import { createZstdDecoder, createZstdEncoder } from "./zstd.ts";

/** Most bytes of a closure's directories, uncompressed. */
const CLOSURE_BYTES_MAX = 256 << 20;

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
    const directories = named(objects, key, readClosure([compressed]));
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
        if (bytes > CLOSURE_BYTES_MAX) {
          const message = `directory closure: the limit is ${CLOSURE_BYTES_MAX} bytes`;
          throw new CastoreError("EXHAUSTED", message);
        }
      }
      const root = next.value;
      const key = objectKey("dirs", root);
      if ((await objects.head(key, { signal })) !== undefined) return root;
      const pieces: Uint8Array[] = [];
      const payload = formatClosure(root, known);
      for await (const piece of createZstdEncoder()(payload)) pieces.push(piece);
      await objects.put(key, Buffer.concat(pieces), { signal, ifAbsent: true });
      return root;
    },
  };
}

/** Each directory's encoding after its length, big-endian in 4 bytes; root first. */
function* formatClosure(
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
    const length = Buffer.alloc(4);
    length.writeUInt32BE(encoded.bytes.byteLength);
    yield length;
    yield encoded.bytes;
  }
}

/** The directories in the compressed `source`. Rejects CORRUPT where it is cut short. */
async function* readClosure(source: ByteSource): AsyncGenerator<Directory, void, undefined> {
  const queue = new ByteQueue();
  let length: number | undefined;
  for await (const piece of createZstdDecoder({ sizeMax: CLOSURE_BYTES_MAX })(source)) {
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
      yield decodeDirectory(bytes);
    }
  }
  if (length !== undefined || queue.size > 0) {
    throw new CastoreError("CORRUPT", "directory closure: cut short");
  }
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
