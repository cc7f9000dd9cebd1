import {
  CastoreError,
  createCachedBlobService,
  createCachedDirectoryService,
  createFirstBlobService,
  createFirstDirectoryService,
  openBlobService,
  openDirectoryService,
  parseBlobServiceUrl,
  parseDirectoryServiceUrl,
} from "@castore/castore";
import {
  createCachedPathInfoService,
  createFirstPathInfoService,
  type NarServices,
  openPathInfoService,
  type PathInfoService,
  parsePathInfoServiceUrl,
} from "@castore/nar-bridge";
import { openStore, type StoreOptions } from "./stack.ts";
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
  const pathInfoUrl = parsePathInfoServiceUrl(text);
  if (pathInfoUrl.type === "binary-cache") {
    throw new CastoreError("UNSUPPORTED", `${text}: a binary cache is named with --upstream`);
  }
  const [blobs, directories, pathInfos] = await allOpened([
    openBlobService(parseBlobServiceUrl(text)),
    openDirectoryService(parseDirectoryServiceUrl(text)),
    openPathInfoService(pathInfoUrl),
  ] as const);
  return {
    services: { blobs: blobs.service, directories: directories.service },
    pathInfos: pathInfos.service,
    [Symbol.asyncDispose]: () => closeAll([blobs, directories, pathInfos]),
  };
}

/** All of them; where one fails, the others are closed again. */
async function allOpened<T extends readonly Promise<AsyncDisposable>[]>(
  opening: T,
): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  try {
    return await Promise.all(opening);
  } catch (error) {
    const settled = await Promise.allSettled(opening);
    await closeAll(settled.flatMap((it) => (it.status === "fulfilled" ? [it.value] : [])));
    throw error;
  }
}

async function closeAll(parts: readonly AsyncDisposable[]): Promise<void> {
  await Promise.all(parts.map((part) => part[Symbol.asyncDispose]()));
}
