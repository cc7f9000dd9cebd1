import { isCastoreError } from "../castore-error.ts";
import { type Digest, parseDigest } from "../model/digest.ts";
import type { Directory } from "../model/directory.ts";
import type { BlobService } from "../services/blob-service.ts";
import type { DirectoryService } from "../services/directory-service.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import type { CheckReport } from "./check-store.ts";
import type { OpenStore } from "./open-store.ts";
import { runStoreTask } from "./store-task.ts";

/** Where objects lie. */
interface Objects {
  readonly blobs: BlobService;
  readonly directories: DirectoryService;
}

export interface RepairOptions extends CallOptions {
  /** Moves what is damaged to quarantine/, so that it is absent and can be put again. */
  readonly repair?: boolean | undefined;
  /** With `repair`: where damaged objects are fetched anew. */
  readonly source?: Objects | undefined;
}

export interface RepairReport extends CheckReport {
  /** Damaged objects that were fetched anew. */
  readonly refetched: number;
}

/** Checks `store`, whose objects are `local`. */
export async function checkAndRepair(
  store: OpenStore,
  local: Objects,
  { repair = false, source, signal }: RepairOptions = {},
): Promise<RepairReport> {
  store.checkWritable();
  const task = { type: "check", options: { repair } } as const;
  const report = await runStoreTask(store.layout.path, task, { signal });
  store.index.refresh();
  let refetched = 0;
  if (repair && source !== undefined) {
    const damaged = (kind: "blob" | "directory"): Digest[] =>
      report.faults.filter((fault) => fault.kind === kind).map(({ name }) => parseDigest(name));
    refetched += await refetchBlobs(local, source, damaged("blob"), signal);
    refetched += await refetchDirectories(local, source, damaged("directory"), signal);
  }
  return { ...report, refetched };
}

async function refetchBlobs(
  local: Objects,
  source: Objects,
  digests: readonly Digest[],
  signal: AbortSignal | undefined,
): Promise<number> {
  let refetched = 0;
  for (const digest of digests) {
    const reader = await source.blobs.open(digest, { signal });
    if (reader === undefined) continue;
    try {
      await local.blobs.put(reader.stream(0, undefined, { signal }), { expect: digest, signal });
      refetched++;
    } catch (error) {
      if (!isCastoreError(error, "CORRUPT")) throw error;
    } finally {
      await reader.close();
    }
  }
  return refetched;
}

/** Children must be there before parents are put, so what lacks one waits for the next round. */
async function refetchDirectories(
  local: Objects,
  source: Objects,
  digests: readonly Digest[],
  signal: AbortSignal | undefined,
): Promise<number> {
  const found: Directory[] = [];
  for (const digest of digests) {
    const directory = await source.directories.get(digest, { signal });
    if (directory !== undefined) found.push(directory);
  }
  let refetched = 0;
  for (let waiting = found; waiting.length > 0; ) {
    const lacking: Directory[] = [];
    for (const directory of waiting) {
      try {
        await local.directories.putClosure([directory], { signal });
        refetched++;
      } catch (error) {
        if (!isCastoreError(error, "INCOMPLETE")) throw error;
        lacking.push(directory);
      }
    }
    if (lacking.length === waiting.length) break;
    waiting = lacking;
  }
  return refetched;
}
