import {
  CastoreError,
  createCachedBlobService,
  createCachedDirectoryService,
  openBlobService,
  openDirectoryService,
  parseBlobServiceUrl,
  parseDirectoryServiceUrl,
} from "@castore/castore";
import {
  createCachedPathInfoService,
  type NarServices,
  openPathInfoService,
  type PathInfoService,
  parsePathInfoServiceUrl,
} from "@castore/nar-bridge";
import { openStore } from "./stack.ts";

/** Blobs, directories and path infos that may be anywhere. */
export interface Services {
  readonly services: NarServices;
  readonly pathInfos: PathInfoService;
  close(): Promise<void>;
}

/** Whether a store's name is a service URL (docs/grpc.md), and not a local store's directory. */
export function isStoreUrl(text: string): boolean {
  return /^[a-z][a-z0-9+.-]*:/.test(text);
}

/** The services at a service URL, or in the local store in a directory. */
export async function openServices(store: string | undefined): Promise<Services> {
  if (store !== undefined && isStoreUrl(store)) return await openRemote(store);
  const local = await openStore(store === undefined ? {} : { store });
  const close = () => local.store.close();
  return { services: local.store, pathInfos: local.pathInfos, close };
}

/** What `near` has, and what `far` has once it was copied to near. Closes both. */
export function cachedServices(near: Services, far: Services): Services {
  const close = async (): Promise<void> => {
    await Promise.all([near.close(), far.close()]);
  };
  return {
    services: {
      blobs: createCachedBlobService(near.services.blobs, far.services.blobs),
      directories: createCachedDirectoryService(
        near.services.directories,
        far.services.directories,
      ),
    },
    pathInfos: createCachedPathInfoService(near.pathInfos, far.pathInfos),
    close,
  };
}

async function openRemote(text: string): Promise<Services> {
  const pathInfoUrl = parsePathInfoServiceUrl(text);
  if (pathInfoUrl.type === "binary-cache") {
    throw new CastoreError("UNSUPPORTED", `${text}: a binary cache is named with --upstream`);
  }
  const blobs = await openBlobService(parseBlobServiceUrl(text));
  const directories = await openDirectoryService(parseDirectoryServiceUrl(text));
  const pathInfos = await openPathInfoService(pathInfoUrl);
  const close = async (): Promise<void> => {
    await Promise.all([blobs.close(), directories.close(), pathInfos.close()]);
  };
  const services = { blobs: blobs.service, directories: directories.service };
  return { services, pathInfos: pathInfos.service, close };
}
