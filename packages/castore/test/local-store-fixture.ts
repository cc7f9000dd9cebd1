import { join } from "node:path";
import type { LocalStore, LocalStoreOptions } from "../src/local/local-store.ts";
import { openLocalStore } from "../src/local/open-local-store.ts";
import type { Fixture } from "./blob-service-suite.ts";
import { createTemporaryDirectory } from "./temporary-directory.ts";

/** A part of a fresh store, whose directory goes when the fixture is closed. */
export async function storeFixture<T>(
  part: (store: LocalStore) => T,
  options: Omit<LocalStoreOptions, "path" | "create"> = {},
): Promise<Fixture<T>> {
  const directory = await createTemporaryDirectory();
  const path = join(directory.path, "store");
  const store = await openLocalStore({ path, create: true, ...options });
  return {
    service: part(store),
    async close() {
      await store.close();
      await directory[Symbol.asyncDispose]();
    },
  };
}

/** Runs `use` with a fresh store. */
export async function withStore(
  use: (store: LocalStore) => Promise<void>,
  options: Omit<LocalStoreOptions, "path" | "create"> = {},
): Promise<void> {
  await using directory = await createTemporaryDirectory();
  const path = join(directory.path, "store");
  await using store = await openLocalStore({ path, create: true, ...options });
  await use(store);
}
