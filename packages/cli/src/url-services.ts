import {
  CastoreError,
  openBlobService,
  openDirectoryService,
  parseBlobServiceUrl,
  parseDirectoryServiceUrl,
} from "@castore/castore";
import { openPathInfoService, parsePathInfoServiceUrl } from "@castore/nar-bridge";
import { allOpened, closeAll } from "./all-opened.ts";
import type { Services } from "./remote-store.ts";

/** The services at a service URL for blobs, directories and path infos (docs/grpc.md). */
export async function openUrlServices(text: string): Promise<Services> {
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
