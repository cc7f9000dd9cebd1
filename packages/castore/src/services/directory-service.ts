import type { Digest } from "../model/digest.ts";
import type { Directory } from "../model/directory.ts";
import type { CallOptions } from "../streams/byte-source.ts";

/**
 * Stores directories under the BLAKE3 digest of their canonical encoding. Everything may be called
 * concurrently. Every implementation passes test/directory-service-suite.ts.
 */
export interface DirectoryService {
  /** The directory, verified; undefined where it is absent. Rejects CORRUPT on a mismatch. */
  get(digest: Digest, options?: CallOptions): Promise<Directory | undefined>;
  /**
   * The directory and all below it, root first, breadth first in name order, each digest once, each
   * verified. Yields nothing where the root is absent; rejects INCOMPLETE where one below is.
   */
  getClosure(root: Digest, options?: CallOptions): AsyncIterable<Directory>;
  /**
   * Stores directories given children before parents, all below one root, and resolves with the
   * root's digest once all are durable and visible; all or nothing. Idempotent; a directory may be
   * given twice. Rejects INCOMPLETE where a child was neither given before nor already there,
   * INVALID where sizes agree with neither rule (docs/format.md, Size) throughout the closure,
   * where nothing is given or more than one directory is not referred to. `leavesToRoot` checks all
   * this.
   */
  putClosure(
    directories: AsyncIterable<Directory> | Iterable<Directory>,
    options?: CallOptions,
  ): Promise<Digest>;
}

/** One whose directories are at hand, as a rule. */
export interface DirectDirectoryService extends DirectoryService {
  /**
   * The canonical encoding of a directory, verified; undefined where `get` is to be asked. Of one
   * that nothing holds it may be gone at the next look.
   */
  peek(digest: Digest): Uint8Array | undefined;
}
