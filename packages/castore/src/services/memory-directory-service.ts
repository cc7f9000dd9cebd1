import type { Digest } from "../model/digest.ts";
import type { Directory } from "../model/directory.ts";
import { leavesToRoot, walkClosure } from "../model/directory-closure.ts";
import type { DirectoryService } from "./directory-service.ts";

/** Directories in memory, for tests and small stores. */
export function createMemoryDirectoryService(): DirectoryService {
  const stored = new Map<Digest, Directory>();
  const get = async (digest: Digest): Promise<Directory | undefined> => stored.get(digest);
  return {
    async get(digest, { signal } = {}) {
      signal?.throwIfAborted();
      return stored.get(digest);
    },
    async *getClosure(root, { signal } = {}) {
      signal?.throwIfAborted();
      for await (const directory of walkClosure(root, get)) {
        yield directory;
        signal?.throwIfAborted();
      }
    },
    async putClosure(directories, { signal } = {}) {
      const accepted = leavesToRoot(directories, { stored: get, signal });
      const batch: (readonly [Digest, Directory])[] = [];
      let next = await accepted.next();
      while (next.done !== true) {
        batch.push([next.value.digest, next.value.directory]);
        next = await accepted.next();
      }
      for (const [digest, directory] of batch) stored.set(digest, directory);
      return next.value;
    },
  };
}
