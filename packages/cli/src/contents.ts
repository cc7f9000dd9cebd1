import {
  type BlobService,
  type DirectContentModule,
  type LocalStore,
  localDirectContent,
  RecentBlobs,
} from "@castore/castore";
import type { ContentsStore } from "@castore/nar-bridge";
import { openStore } from "./local-store.ts";

/** How long what came stays at least: until whoever wanted it has opened it. */
const UNLEASED_MS = 500;

export interface Contents extends ContentsStore, AsyncDisposable {
  readonly content: DirectContentModule;
  /** Where what comes goes. */
  readonly target: Pick<LocalStore, "blobs" | "blobsFor">;
}

/** The contents that `store` has, kept there for as long as what they belong to is held. */
export function heldContents(store: LocalStore): Contents {
  const { blobs, chunks } = store;
  const content = localDirectContent(store);
  return { blobs, chunks, content, target: store, async [Symbol.asyncDispose]() {} };
}

/**
 * Contents that were fetched, in a store of their own of about `sizeMax` bytes, for a disk: a later
 * process finds them. Nothing is held there: whenever it has become full it is emptied, but for the
 * last seconds.
 */
export async function lastingContents(
  store: LocalStore,
  path: string,
  sizeMax: number,
): Promise<Contents> {
  const options = { store: path, storeMaxSize: sizeMax, unleasedMs: UNLEASED_MS };
  const opened = await openStore(options);
  return {
    blobs: besides(store, opened.store.blobs),
    chunks: opened.store.chunks,
    target: opened.store,
    content: localDirectContent(opened.store),
    [Symbol.asyncDispose]: () => opened[Symbol.asyncDispose](),
  };
}

/**
 * Contents that were fetched, in a directory of `sizeMax` bytes at most that this process empties
 * first. The least recently used go, and are fetched again when they are needed again.
 */
export function recentContents(store: LocalStore, path: string, sizeMax: number): Contents {
  const recent = new RecentBlobs({ path, sizeMax });
  return {
    blobs: besides(store, recent),
    chunks: recent.index,
    target: { blobs: recent, blobsFor: () => recent },
    content: recent.content,
    async [Symbol.asyncDispose]() {},
  };
}

/** `blobs`, and where they lack one, those of `store`. */
function besides(store: LocalStore, blobs: BlobService): ContentsStore["blobs"] {
  return {
    open: async (digest, options) =>
      (await blobs.open(digest, options)) ?? (await store.blobs.open(digest, options)),
    put: (source, options) => blobs.put(source, options),
  };
}
