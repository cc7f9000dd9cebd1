import { type DirectContentModule, type LocalStore, localDirectContent } from "@castore/castore";
import type { ContentsStore } from "@castore/nar-bridge";
import { openStore } from "./local-store.ts";

/** How long what came stays at least: until whoever wanted it has opened it. */
const UNLEASED_MS = 500;

export interface Contents extends ContentsStore, AsyncDisposable {
  readonly content: DirectContentModule;
  /** Where what comes goes. */
  readonly target: LocalStore;
}

/** The contents that `store` has, kept there for as long as what they belong to is held. */
export function heldContents(store: LocalStore): Contents {
  const { blobs, chunks } = store;
  const content = localDirectContent(store);
  return { blobs, chunks, content, target: store, async [Symbol.asyncDispose]() {} };
}

/**
 * Contents that were fetched in a store beside `store`, of about `sizeMax` bytes at most: nothing
 * is held there, so it is emptied, but for the last seconds, whenever it has become full. What is
 * needed again is fetched again.
 */
export async function boundedContents(
  store: LocalStore,
  path: string,
  sizeMax: number,
): Promise<Contents> {
  const options = { store: path, storeMaxSize: sizeMax, unleasedMs: UNLEASED_MS };
  const opened = await openStore(options);
  const { blobs, chunks } = opened.store;
  return {
    blobs: {
      open: async (digest, openOptions) =>
        (await blobs.open(digest, openOptions)) ?? (await store.blobs.open(digest, openOptions)),
      put: (source, putOptions) => blobs.put(source, putOptions),
    },
    chunks,
    target: opened.store,
    content: localDirectContent(opened.store),
    [Symbol.asyncDispose]: () => opened[Symbol.asyncDispose](),
  };
}
