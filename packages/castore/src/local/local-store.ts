import type { Digest } from "../model/digest.ts";
import type { BlobAnalysis } from "../recipes/blob-analyzer.ts";
import type { BlobService } from "../services/blob-service.ts";
import type { ChunkIndex } from "../services/chunk-index.ts";
import type { DirectDirectoryService } from "../services/directory-service.ts";
import type { PinStore } from "../services/pin-store.ts";
import type { RootStore, StoreTable } from "../services/root-store.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import type { RepairOptions, RepairReport } from "./check-and-repair.ts";
import type { CollectionReport } from "./garbage-collection.ts";
import type { CollectOptions } from "./garbage-collector.ts";
import type { SeedReport } from "./seed-tree.ts";
import type { Lease } from "./store-leases.ts";

export interface LocalStoreOptions {
  readonly path: string;
  /** Makes an empty store where there is none. */
  readonly create?: boolean;
  /**
   * No other process uses it: where it is new, its index is opened by the first write, which a
   * process that only fetches what it reads may never do. Default false.
   */
  readonly private?: boolean | undefined;
  /** Reads only: nothing on the disk changes, so nothing is held either. */
  readonly readOnly?: boolean;
  /**
   * Where a put takes the store beyond so many bytes, root records are evicted in the background,
   * least recently used first, and garbage is collected. Unlimited by default.
   */
  readonly sizeMax?: number | undefined;
  /**
   * What is put, or seen to be there, outside any lease is kept for at least so long; by default
   * until close(). A server that runs for long says how long, and takes leases.
   */
  readonly unleasedMs?: number | undefined;
}

/** A store in one directory on a local disk (docs/format.md, Local store). */
export interface LocalStore extends AsyncDisposable {
  readonly path: string;
  /** `put` chunks and indexes what it stores; open readers verify nothing that was verified. */
  readonly blobs: BlobService;
  readonly directories: DirectDirectoryService;
  readonly roots: RootStore;
  readonly chunks: ChunkIndex;
  /**
   * Like `blobs`, but `put` indexes chunks of the normal form for these references: 32-character
   * hash parts, each occurrence of which is replaced before chunking.
   */
  blobsFor(references: readonly string[]): BlobService;
  /**
   * The normal form of a stored blob for these references; its chunks are found in `chunks` from
   * then on. Undefined where the blob is absent. Rejects CORRUPT where its bytes are wrong.
   */
  analyze(
    digest: Digest,
    references: readonly string[],
    options?: CallOptions,
  ): Promise<BlobAnalysis | undefined>;
  /** The table called `name`, made if it is not there: 1..32 characters of a-z and "-". */
  table(name: string): StoreTable;
  readonly pins: PinStore;
  /**
   * Until it is released, nothing that is put, or answered to be there, by this process is
   * collected: to be taken before the first put or question about what will be put under a root,
   * and released after that. Costs nothing.
   */
  lease(): Lease;
  /**
   * Deletes everything that no root record, pin or lease needs, beside readers and writers of any
   * process. Lets go of what this process has put or seen outside any lease. Rejects UNAVAILABLE
   * while another process collects, CORRUPT where a directory that is needed is damaged.
   */
  collectGarbage(options?: CollectOptions): Promise<CollectionReport>;
  /** What the store holds now. */
  stats(): LocalStoreStats;
  /**
   * Indexes the chunks of the files below `path` (/nix/store, say) in place, without a copy; they
   * are read only where a blob of the store does not do, and verified then. What has not changed
   * since the last time is passed over, what is gone is forgotten. Rejects where `path` cannot be
   * listed, and forgets nothing then.
   */
  seedTree(
    path: string,
    options?: CallOptions & { readonly bytesMin?: number | undefined },
  ): Promise<SeedReport>;
  /** Verifies every row and file; with `repair`, moves away what is damaged. */
  check(options?: RepairOptions): Promise<RepairReport>;
  /** Waits for what is under way. */
  close(): Promise<void>;
}

export interface LocalStoreStats {
  readonly blobs: number;
  readonly directories: number;
  /** Root records. */
  readonly roots: number;
  /** Chunks of files outside the store. */
  readonly seeds: number;
  /** Bytes of blobs and directories, as the size limit counts them. */
  readonly bytes: number;
}
