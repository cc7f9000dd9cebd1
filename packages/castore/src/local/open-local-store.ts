import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { CastoreError } from "../castore-error.ts";
import { makeDirectories } from "../files/make-directories.ts";
import { createNormalForm } from "../recipes/normal-form.ts";
import { checkAndRepair } from "./check-and-repair.ts";
import { deferIndex } from "./deferred-index.ts";
import { GarbageCollector } from "./garbage-collector.ts";
import { analyzeLocalBlob, createLocalBlobService } from "./local-blob-service.ts";
import { createLocalChunkIndex } from "./local-chunk-index.ts";
import { createLocalDirectoryService } from "./local-directory-service.ts";
import { createLocalPinStore } from "./local-pin-store.ts";
import { LocalRootStore } from "./local-root-store.ts";
import type { LocalStore, LocalStoreOptions, LocalStoreStats } from "./local-store.ts";
import { createLocalStoreTable } from "./local-store-table.ts";
import { OpenStore } from "./open-store.ts";
import { storeError } from "./store-error.ts";
import { openStoreIndex, type StoreIndex } from "./store-index.ts";
import { checkFormat, createLayout, type StoreLayout, storeLayout } from "./store-layout.ts";
import { liveLeases, StoreLeases } from "./store-leases.ts";
import { runStoreTask } from "./store-task.ts";
import { createStoreWriter } from "./store-writer.ts";
import { META_SIZE, readCounter } from "./store-writes.ts";

/**
 * Opens the store at `path`. Rejects UNSUPPORTED for a store of another format, INVALID for a
 * directory that is not a store, UNAVAILABLE where there is none and `create` is false.
 */
export async function openLocalStore(options: LocalStoreOptions): Promise<LocalStore> {
  const layout = storeLayout(options.path);
  const readOnly = options.readOnly ?? false;
  if (options.create && !readOnly) {
    // Where a file stands in the way, the look at the format says so.
    await makeDirectories(layout.path).catch((cause: unknown) => {
      throw storeError(`create store ${layout.path}`, cause);
    });
  }
  const isNew = !(await checkFormat(layout));
  if (isNew) {
    if (!options.create || readOnly) {
      throw new CastoreError("UNAVAILABLE", `store ${layout.path}: there is none`);
    }
    await createLayout(layout);
  }
  const open = () => openStoreIndex(layout.index, { readOnly });
  const isDeferred = isNew && options.private === true;
  const index = isDeferred ? deferIndex(open, () => leases.register()) : open();
  const leases = new StoreLeases(index, options.unleasedMs ?? Number.POSITIVE_INFINITY);
  try {
    if (!readOnly && !isDeferred) await enter(layout, index, leases);
    const writer = readOnly ? undefined : createStoreWriter({ layout, index, leases });
    return composeStore(new OpenStore({ layout, index, leases, writer }), options.sizeMax);
  } catch (error) {
    await index.close();
    throw storeError(`store ${layout.path}`, error);
  }
}

/** Registers this process, and removes what dead ones have left. */
async function enter(layout: StoreLayout, index: StoreIndex, leases: StoreLeases): Promise<void> {
  // Listed before the leases are read: the owner of a file registers before it makes the file.
  const names = await readdir(layout.temporary);
  leases.register();
  const live = liveLeases(index);
  for (const name of names) {
    const owner = name.split(".")[0] ?? "";
    if (!live.has(owner)) await rm(join(layout.temporary, name), { force: true });
  }
}

function composeStore(store: OpenStore, sizeMax: number | undefined): LocalStore {
  const roots = new LocalRootStore(store);
  const directories = createLocalDirectoryService(store);
  const blobs = createLocalBlobService(store, createNormalForm([]));
  const collector = new GarbageCollector(store, sizeMax, () => roots.writeTouches());
  store.onWrite = () => collector.checkSize();
  let closed: Promise<void> | undefined;
  const close = (): Promise<void> => {
    closed ??= closeParts(store, roots, collector);
    return closed;
  };
  return {
    path: store.layout.path,
    blobs,
    directories,
    roots,
    chunks: createLocalChunkIndex(store),
    pins: createLocalPinStore(store),
    blobsFor: (references) => createLocalBlobService(store, createNormalForm(references)),
    analyze: (digest, references, options) =>
      analyzeLocalBlob(store, createNormalForm(references), digest, options),
    table: (name) => createLocalStoreTable(store, name),
    stats: () => statsOf(store.index),
    lease: () => store.leases.hold(),
    collectGarbage: (collectOptions) => collector.collect(collectOptions),
    async seedTree(path, { bytesMin, signal } = {}) {
      store.checkWritable();
      const seed = { path, ...(bytesMin === undefined ? {} : { bytesMin }) };
      const task = { type: "seed", options: seed } as const;
      return runStoreTask(store.layout.path, task, { signal }).finally(() => store.index.refresh());
    },
    check: (checkOptions) => checkAndRepair(store, { blobs, directories }, checkOptions),
    close,
    [Symbol.asyncDispose]: close,
  };
}

function statsOf({ rows }: StoreIndex): LocalStoreStats {
  return {
    blobs: rows.blobs.getCount(),
    directories: rows.directories.getCount(),
    roots: rows.roots.getCount(),
    seeds: rows.seeds.getCount(),
    bytes: readCounter(rows.meta, META_SIZE),
  };
}

async function closeParts(
  store: OpenStore,
  roots: LocalRootStore,
  collector: GarbageCollector,
): Promise<void> {
  await collector.close();
  try {
    await roots.close();
  } finally {
    await store.close();
  }
}
