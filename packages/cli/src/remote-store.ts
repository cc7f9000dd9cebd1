import {
  createCachedBlobService,
  createCachedDirectoryService,
  createFirstBlobService,
  createFirstDirectoryService,
} from "@castore/castore";
import {
  createCachedPathInfoService,
  createFirstPathInfoService,
  type NarServices,
  type PathInfoService,
} from "@castore/nar-bridge";
import { allOpened, closeAll } from "./all-opened.ts";
import { openStore, type StoreOptions } from "./local-store.ts";
import { isStoreUrl } from "./store-command.ts";

/** Blobs, directories and path infos that may be anywhere. */
export interface Services extends AsyncDisposable {
  readonly services: NarServices;
  readonly pathInfos: PathInfoService;
}

/** The services at the service URL `options.store`, or in the local store in that directory. */
export async function openServices(options: StoreOptions): Promise<Services> {
  if (options.store !== undefined && isStoreUrl(options.store)) return openUrl(options.store);
  const local = await openStore(options);
  const close = () => local.store.close();
  return { services: local.store, pathInfos: local.pathInfos, [Symbol.asyncDispose]: close };
}

/** What `near` has, and what the first of `far` that has it has, once it was copied to near. */
export async function openCachedServices(
  near: StoreOptions,
  far: readonly string[],
): Promise<Services> {
  const [first, ...others] = await allOpened([openServices(near), ...far.map(openUrl)]);
  if (first === undefined) throw new Error("near was not opened");
  const { blobs, directories } = first.services;
  const farBlobs = createFirstBlobService(others.map(({ services }) => services.blobs));
  const farDirectories = createFirstDirectoryService(
    others.map(({ services }) => services.directories),
  );
  const farPathInfos = createFirstPathInfoService(others.map(({ pathInfos }) => pathInfos));
  return {
    services: {
      blobs: createCachedBlobService(blobs, farBlobs),
      directories: createCachedDirectoryService(directories, farDirectories),
    },
    pathInfos: createCachedPathInfoService(first.pathInfos, farPathInfos),
    [Symbol.asyncDispose]: () => closeAll([first, ...others]),
  };
}

async function openUrl(text: string): Promise<Services> {
  // Its clients would make a tenth of what every command loads.
  return (await import("./url-services.ts")).openUrlServices(text);
}
