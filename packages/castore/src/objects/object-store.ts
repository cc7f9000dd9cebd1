import { CastoreError } from "../castore-error.ts";
import type { Digest } from "../model/digest.ts";
import type { ByteRange } from "../streams/byte-range.ts";
import type { CallOptions } from "../streams/byte-source.ts";

/** Most bytes of an object that are read, unless the caller says otherwise. */
export const OBJECT_BYTES_MAX = 64 << 20;

export interface GetObjectOptions extends CallOptions {
  /** Only these bytes, clipped at the object's size. */
  readonly range?: ByteRange | undefined;
  /** Rejects EXHAUSTED for more. OBJECT_BYTES_MAX by default. */
  readonly bytesMax?: number | undefined;
}

export interface PutObjectOptions extends CallOptions {
  /** Leaves an object that is there already as it is. */
  readonly ifAbsent?: boolean | undefined;
}

export interface ObjectEntry {
  readonly key: string;
  readonly size: number;
}

/**
 * Byte strings under keys: a bucket, a directory, a static file server. Keys are as checkObjectKey
 * wants them. Everything may be called concurrently, by several processes. Rejects UNAVAILABLE
 * once retries are used up, DENIED, EXHAUSTED, and READ_ONLY or UNSUPPORTED for what it cannot do.
 */
export interface ObjectStore extends AsyncDisposable {
  /** How errors name it: a URL without secrets. */
  readonly name: string;
  /** The object's bytes, which become the caller's; undefined where it is absent. */
  get(key: string, options?: GetObjectOptions): Promise<Buffer | undefined>;
  /** The object's size; undefined where it is absent. */
  head(key: string, options?: CallOptions): Promise<{ readonly size: number } | undefined>;
  /**
   * Stores the object whole or not at all, durably once resolved. `bytes` stays the caller's, who
   * leaves it alone meanwhile. Resolves with false where `ifAbsent` found one there.
   */
  put(key: string, bytes: Uint8Array, options?: PutObjectOptions): Promise<boolean>;
  /** All objects whose keys begin with `prefix`, in order of key. */
  list(prefix: string, options?: CallOptions): AsyncIterable<ObjectEntry>;
  /** Removes the object, if it is there. */
  delete(key: string, options?: CallOptions): Promise<void>;
  /** Idempotent. */
  close(): Promise<void>;
}

/** Most characters in a key. */
export const OBJECT_KEY_LENGTH_MAX = 512;

/**
 * Throws INVALID unless `key` is parts of A-Z a-z 0-9 . _ + - with "/" between them, none of which
 * begins with "." (so that no key leaves its directory or meets a temporary file). No key may be
 * the directory of another: "a" and "a/b" cannot both be files.
 */
export function checkObjectKey(key: string): void {
  const valid = /^(?!\.)[\w.+-]+(?:\/(?!\.)[\w.+-]+)*$/.test(key);
  if (!valid || key.length > OBJECT_KEY_LENGTH_MAX) {
    throw new CastoreError("INVALID", `object key ${JSON.stringify(key)}`);
  }
}

/** The key of a digest in snix's layout (docs/object-store.md). */
export function objectKey(kind: "blobs" | "chunks" | "dirs", digest: Digest): string {
  return `${kind}/b3/${digest.slice(0, 4)}/${digest}`;
}

/** Throws EXHAUSTED unless an object of `size` bytes may be read. */
export function checkObjectSize(name: string, key: string, size: number, bytesMax: number): void {
  if (size > bytesMax) {
    const message = `${name}: object ${key} of ${size} bytes: the limit is ${bytesMax}`;
    throw new CastoreError("EXHAUSTED", message);
  }
}
