import { clipRange } from "../streams/byte-range.ts";
import {
  checkObjectKey,
  checkObjectSize,
  OBJECT_BYTES_MAX,
  type ObjectStore,
} from "./object-store.ts";

/** Objects in memory, for tests and small stores. */
export function createMemoryObjectStore(): ObjectStore {
  const objects = new Map<string, Buffer>();
  const name = "objectstore+memory:///";
  const close = async (): Promise<void> => {};
  return {
    name,
    async get(key, { signal, range, bytesMax = OBJECT_BYTES_MAX } = {}) {
      signal?.throwIfAborted();
      checkObjectKey(key);
      const bytes = objects.get(key);
      if (bytes === undefined) return undefined;
      const { start, end } = clipRange(bytes.byteLength, range?.start, range?.end);
      checkObjectSize(name, key, end - start, bytesMax);
      return Buffer.from(bytes.subarray(start, end));
    },
    async head(key, { signal } = {}) {
      signal?.throwIfAborted();
      checkObjectKey(key);
      const bytes = objects.get(key);
      return bytes === undefined ? undefined : { size: bytes.byteLength };
    },
    async put(key, bytes, { signal, ifAbsent } = {}) {
      signal?.throwIfAborted();
      checkObjectKey(key);
      if (ifAbsent === true && objects.has(key)) return false;
      objects.set(key, Buffer.from(bytes));
      return true;
    },
    async *list(prefix, { signal } = {}) {
      for (const key of [...objects.keys()].sort()) {
        signal?.throwIfAborted();
        const bytes = objects.get(key);
        if (bytes !== undefined && key.startsWith(prefix)) yield { key, size: bytes.byteLength };
      }
    },
    async delete(key, { signal } = {}) {
      signal?.throwIfAborted();
      objects.delete(key);
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}
