import { CastoreError } from "../castore-error.ts";
import { createGrpcBlobService } from "../grpc/grpc-blob-service.ts";
import {
  type GrpcChannel,
  type GrpcChannelOptions,
  openGrpcChannel,
} from "../grpc/grpc-channel.ts";
import { createGrpcDirectoryService } from "../grpc/grpc-directory-service.ts";
import { openFileObjectStore } from "../objects/file-object-store.ts";
import { openHttpObjectStore } from "../objects/http-object-store.ts";
import { createMemoryObjectStore } from "../objects/memory-object-store.ts";
import type { ObjectHttpOptions } from "../objects/object-http.ts";
import type { ObjectStore } from "../objects/object-store.ts";
import { createObjectStoreBlobService } from "../objects/object-store-blob-service.ts";
import { createObjectStoreDirectoryService } from "../objects/object-store-directory-service.ts";
import { openS3ObjectStore, resolveS3Location } from "../objects/s3-object-store.ts";
import type { BlobService } from "../services/blob-service.ts";
import type { DirectoryService } from "../services/directory-service.ts";
import { createMemoryBlobService } from "../services/memory-blob-service.ts";
import { createMemoryDirectoryService } from "../services/memory-directory-service.ts";
import type { ObjectStoreAddress, ServiceUrl } from "../services/service-url.ts";
import { createCachedBlobService } from "./cached-blob-service.ts";
import { createCachedDirectoryService } from "./cached-directory-service.ts";

/** A service and the connections that it has for itself. */
export interface Opened<T> extends AsyncDisposable {
  readonly service: T;
  /** Idempotent. */
  close(): Promise<void>;
}

/** How to reach what a URL names. */
export interface OpenServiceOptions extends GrpcChannelOptions, ObjectHttpOptions {}

/** How services of one kind are made of what URLs lead to. */
export interface ServiceMakers<T> {
  /** What errors call a service of this kind. */
  readonly what: string;
  memory(): T;
  grpc(channel: GrpcChannel): T;
  objects(objects: ObjectStore): T;
  cached(near: T, far: T): T;
}

/** Opens the blobs that a URL names. Rejects INVALID, UNAVAILABLE, UNSUPPORTED. */
export function openBlobService(
  url: ServiceUrl,
  options?: OpenServiceOptions,
): Promise<Opened<BlobService>> {
  const makers: ServiceMakers<BlobService> = {
    what: "blobs",
    memory: createMemoryBlobService,
    grpc: createGrpcBlobService,
    objects: createObjectStoreBlobService,
    cached: createCachedBlobService,
  };
  return openService(url, makers, options);
}

/** Opens the directories that a URL names. Rejects INVALID, UNAVAILABLE, UNSUPPORTED. */
export function openDirectoryService(
  url: ServiceUrl,
  options?: OpenServiceOptions,
): Promise<Opened<DirectoryService>> {
  const makers: ServiceMakers<DirectoryService> = {
    what: "directories",
    memory: createMemoryDirectoryService,
    grpc: createGrpcDirectoryService,
    objects: createObjectStoreDirectoryService,
    cached: createCachedDirectoryService,
  };
  return openService(url, makers, options);
}

/** Opens the service that `url` names, as `makers` make it. */
export async function openService<T>(
  url: ServiceUrl,
  makers: ServiceMakers<T>,
  options: OpenServiceOptions = {},
): Promise<Opened<T>> {
  switch (url.type) {
    case "memory":
      return opened(makers.memory(), []);
    case "grpc": {
      const channel = await openGrpcChannel(url.address, options);
      return opened(makers.grpc(channel), [channel]);
    }
    case "object-store": {
      const objects = await openObjectStore(url.address, options);
      return opened(makers.objects(objects), [objects]);
    }
    case "cache": {
      const near = await openService(url.near, makers, options);
      try {
        const far = await openService(url.far, makers, options);
        return opened(makers.cached(near.service, far.service), [near, far]);
      } catch (error) {
        await near.close();
        throw error;
      }
    }
    case "foreign":
      throw new CastoreError("UNSUPPORTED", `${makers.what}: castore does not open ${url.scheme}:`);
  }
}

/** Opens the objects that a URL names. Rejects INVALID and UNAVAILABLE. */
export async function openObjectStore(
  { scheme, location, options: parameters }: ObjectStoreAddress,
  options: ObjectHttpOptions = {},
): Promise<ObjectStore> {
  if (scheme === "s3") {
    return openS3ObjectStore(await resolveS3Location(location, parameters), options);
  }
  for (const name of parameters.keys()) {
    throw new CastoreError("INVALID", `${scheme}:${location}: parameter ${name} is not known`);
  }
  if (scheme === "memory") return createMemoryObjectStore();
  if (scheme === "file") {
    return await openFileObjectStore(decodeURIComponent(location.slice("//".length)));
  }
  return openHttpObjectStore(new URL(`${scheme}:${location}`), options);
}

function opened<T>(service: T, parts: readonly { close(): Promise<void> }[]): Opened<T> {
  const close = async (): Promise<void> => {
    await Promise.all(parts.map((part) => part.close()));
  };
  return { service, close, [Symbol.asyncDispose]: close };
}
