import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { createBlobGrpcService } from "../src/grpc/grpc-blob-handlers.ts";
import { createGrpcBlobService } from "../src/grpc/grpc-blob-service.ts";
import { createDirectoryGrpcService } from "../src/grpc/grpc-directory-handlers.ts";
import { createGrpcDirectoryService } from "../src/grpc/grpc-directory-service.ts";
import { openLocalStore } from "../src/local/open-local-store.ts";
import { createMemoryObjectStore } from "../src/objects/memory-object-store.ts";
import { createObjectStoreBlobService } from "../src/objects/object-store-blob-service.ts";
import type { BlobService } from "../src/services/blob-service.ts";
import { createMemoryBlobService } from "../src/services/memory-blob-service.ts";
import { createMemoryDirectoryService } from "../src/services/memory-directory-service.ts";
import { describeBlobService, readAll } from "./blob-service-suite.ts";
import { describeDirectoryService } from "./directory-service-suite.ts";
import { openGrpcPair } from "./grpc-fixture.ts";
import { prngBytes } from "./vectors.ts";

async function temporaryStore() {
  const path = await mkdtemp(join(tmpdir(), "castore-grpc-store-"));
  const store = await openLocalStore({ path: join(path, "store"), create: true });
  const close = async () => {
    await store.close();
    await rm(path, { recursive: true });
  };
  return { store, close };
}

describeBlobService("gRPC before an object store, which tells chunks", async () => {
  const blobs = createObjectStoreBlobService(createMemoryObjectStore());
  const { channel, close } = await openGrpcPair([createBlobGrpcService(blobs)]);
  return { service: createGrpcBlobService(channel), close };
});

describeBlobService("gRPC before a local store", async () => {
  const { store, close } = await temporaryStore();
  const pair = await openGrpcPair([createBlobGrpcService(store.blobs)]);
  const closeAll = () => pair.close().then(close);
  return { service: createGrpcBlobService(pair.channel), close: closeAll };
});

describeBlobService("gRPC before a local store and its chunks", async () => {
  const { store, close } = await temporaryStore();
  const { blobs, chunks } = store;
  const pair = await openGrpcPair([createBlobGrpcService(blobs, { chunks })]);
  const closeAll = () => pair.close().then(close);
  return { service: createGrpcBlobService(pair.channel), close: closeAll };
});

test("with its chunk index, a local store's chunks are told and served", async () => {
  const { store, close } = await temporaryStore();
  const { blobs, chunks } = store;
  const bytes = prngBytes(3_000_000);
  const { digest } = await blobs.put([new Uint8Array(bytes)]);
  const pair = await openGrpcPair([createBlobGrpcService(blobs, { chunks })]);
  const remote = createGrpcBlobService(pair.channel);
  const list = (await remote.chunks(digest)) ?? [];
  expect(list).toEqual(await blobs.chunks(digest));
  for (const chunk of list) expect(await remote.has(chunk.digest)).toBe(true);
  expect((await readAll(remote, digest)).equals(bytes)).toBe(true);
  await pair.close();
  await close();
});

describeDirectoryService("gRPC before a local store", async () => {
  const { store, close } = await temporaryStore();
  const pair = await openGrpcPair([createDirectoryGrpcService(store.directories)]);
  const closeAll = () => pair.close().then(close);
  return { service: createGrpcDirectoryService(pair.channel), close: closeAll };
});

test("chunks that a local store cannot serve by themselves are not told", async () => {
  const { store, close } = await temporaryStore();
  const bytes = prngBytes(3_000_000);
  const { digest } = await store.blobs.put([new Uint8Array(bytes)]);
  expect((await store.blobs.chunks(digest))?.length).toBeGreaterThan(5);
  let opened = 0;
  const open: BlobService["open"] = (...args) => {
    opened++;
    return store.blobs.open(...args);
  };
  const blobs: BlobService = {
    has: (...args) => store.blobs.has(...args),
    chunks: (...args) => store.blobs.chunks(...args),
    put: (...args) => store.blobs.put(...args),
    open,
  };
  const pair = await openGrpcPair([createBlobGrpcService(blobs)]);
  const remote = createGrpcBlobService(pair.channel);
  expect(await remote.chunks(digest)).toEqual([]);
  // Once to see that it is large, once for the bytes.
  expect((await readAll(remote, digest)).equals(bytes)).toBe(true);
  expect(opened).toBe(2);
  await pair.close();
  await close();
});

for (const transport of ["tcp", "unix"] as const) {
  describeBlobService(`gRPC over ${transport}`, async () => {
    const blobs = createMemoryBlobService();
    const { channel, close } = await openGrpcPair([createBlobGrpcService(blobs)], transport);
    return { service: createGrpcBlobService(channel), close };
  });

  describeDirectoryService(`gRPC over ${transport}`, async () => {
    const directories = createMemoryDirectoryService();
    const services = [createDirectoryGrpcService(directories)];
    const { channel, close } = await openGrpcPair(services, transport);
    return { service: createGrpcDirectoryService(channel), close };
  });
}
