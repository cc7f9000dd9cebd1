import { CastoreError } from "../castore-error.ts";
import { type Digest, digestBytes, digestOf } from "../model/digest.ts";
import type { Directory } from "../model/directory.ts";
import { leavesToRoot, walkClosure } from "../model/directory-closure.ts";
import { decodeDirectory } from "../model/directory-codec.ts";
import type { DirectDirectoryService } from "../services/directory-service.ts";
import type { OpenStore } from "./open-store.ts";

/** The directories of `store`. */
export function createLocalDirectoryService(store: OpenStore): DirectDirectoryService {
  const get = async (digest: Digest): Promise<Directory | undefined> => {
    const directory = readDirectory(store, digest);
    return directory !== undefined && (await store.sees("directories", digest))
      ? directory
      : undefined;
  };
  return {
    peek(digest) {
      const bytes = readEncoded(store, digest);
      return store.isCondemned("directories", digestBytes(digest)) ? undefined : bytes;
    },
    async get(digest, { signal } = {}) {
      signal?.throwIfAborted();
      return get(digest);
    },
    async *getClosure(root, { signal } = {}) {
      signal?.throwIfAborted();
      using _lease = store.leases.hold();
      for await (const directory of walkClosure(root, get)) {
        yield directory;
        signal?.throwIfAborted();
      }
    },
    async putClosure(directories, { signal } = {}) {
      store.checkWritable();
      using _lease = store.leases.hold();
      const children = new Set<Digest>();
      const stored = async (digest: Digest): Promise<Directory | undefined> => {
        const directory = await get(digest);
        if (directory !== undefined) children.add(digest);
        return directory;
      };
      const rows: (readonly [Uint8Array, Uint8Array])[] = [];
      const accepted = leavesToRoot(directories, { stored, signal });
      let next = await accepted.next();
      while (next.done !== true) {
        const { digest, bytes } = next.value;
        children.delete(digest);
        rows.push([digestBytes(digest), bytes]);
        next = await accepted.next();
      }
      signal?.throwIfAborted();
      const needed = [...children].map(digestBytes);
      await store.write({ type: "directories", rows, children: needed });
      return next.value;
    },
  };
}

function readDirectory(store: OpenStore, digest: Digest): Directory | undefined {
  const bytes = readEncoded(store, digest);
  return bytes && decodeDirectory(bytes, bytes.byteLength);
}

function readEncoded(store: OpenStore, digest: Digest): Uint8Array | undefined {
  const bytes = store.index.rows.directories.getBinary(digestBytes(digest));
  if (bytes === undefined) return undefined;
  const found = digestOf(bytes);
  if (found === digest) return bytes;
  throw new CastoreError("CORRUPT", `directory ${digest}: the stored bytes have digest ${found}`);
}
