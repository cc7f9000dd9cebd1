import type { BlobService, ChunkMeta, PutBlobsOptions } from "./blob-service.ts";

/** `putAll` of any service: of one that has none by a `put` of each, which have all ended then. */
export async function putBlobs(
  service: BlobService,
  blobs: readonly Uint8Array[],
  options: PutBlobsOptions = {},
): Promise<readonly ChunkMeta[]> {
  if (service.putAll !== undefined) return service.putAll(blobs, options);
  const { signal, release } = options;
  const puts = await Promise.allSettled(blobs.map((bytes) => service.put([bytes], { signal })));
  release?.();
  return puts.map((put) => {
    if (put.status === "rejected") throw put.reason;
    return put.value;
  });
}
