import type { BlobService } from "./blob-service.ts";
import type { ChunkIndex } from "./chunk-index.ts";
import type { DirectoryService } from "./directory-service.ts";
import type { RootStore, StoreTable } from "./root-store.ts";

export interface LocalStoreOptions {
  readonly path: string;
  /** Makes an empty store where there is none. */
  readonly create?: boolean;
  /** Reads only: nothing on the disk changes, so nothing is held either. */
  readonly readOnly?: boolean;
}

/** A store in one directory on a local disk (docs/format.md, Local store). */
export interface LocalStore extends AsyncDisposable {
  readonly path: string;
  /** `put` chunks and indexes what it stores; open readers verify nothing that was verified. */
  readonly blobs: BlobService;
  readonly directories: DirectoryService;
  readonly roots: RootStore;
  readonly chunks: ChunkIndex;
  /**
   * Like `blobs`, but `put` indexes chunks of the normal form for these references: 32-character
   * hash parts, each occurrence of which is replaced before chunking.
   */
  blobsFor(references: readonly string[]): BlobService;
  /** The table called `name`, made if it is not there: 1..32 characters of a-z and "-". */
  table(name: string): StoreTable;
  close(): Promise<void>;
}
