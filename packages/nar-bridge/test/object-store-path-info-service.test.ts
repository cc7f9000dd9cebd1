import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  createMemoryObjectStore,
  type ObjectStore,
  openFileObjectStore,
  openS3ObjectStore,
} from "@castore/castore";
import { expect, test } from "vitest";
import { startS3Server } from "../../../test/support/s3-server.ts";
import { storePathHash } from "../src/nix/store-path.ts";
import { createObjectStorePathInfoService } from "../src/path-infos/object-store-path-info-service.ts";
import { encodeSignedPathInfo } from "../src/path-infos/path-info-codec.ts";
import { describePathInfoService, samplePathInfo } from "./path-info-service-suite.ts";

describePathInfoService("object store (memory)", async () => ({
  service: createObjectStorePathInfoService(createMemoryObjectStore()),
  close: async () => {},
}));

describePathInfoService("object store (file)", async () => {
  const directory = await mkdtemp(join(tmpdir(), "castore-objects-"));
  const objects = await openFileObjectStore(directory);
  return {
    service: createObjectStorePathInfoService(objects),
    close: () => rm(directory, { recursive: true }),
  };
});

describePathInfoService("object store (s3)", async () => {
  const server = await startS3Server();
  const objects: ObjectStore = openS3ObjectStore({
    bucket: server.bucket,
    prefix: "",
    endpoint: new URL(server.url),
    pathStyle: true,
    region: "us-east-1",
    credentials: server,
  });
  return {
    service: createObjectStorePathInfoService(objects),
    async close() {
      await objects.close();
      await server[Symbol.asyncDispose]();
    },
  };
});

test("the object is a SignedPathInfo under the store hash", async () => {
  const objects = createMemoryObjectStore();
  const pathInfo = samplePathInfo("1-a");
  await createObjectStorePathInfoService(objects).put(pathInfo);
  const object = await objects.get(`pathinfo/${"0".repeat(31)}1`);
  expect(object).toEqual(encodeSignedPathInfo(pathInfo));
});

test("an object that is no path info, or another path's, is CORRUPT", async () => {
  const objects = createMemoryObjectStore();
  const service = createObjectStorePathInfoService(objects);
  const hash = storePathHash(samplePathInfo("1-a").storePath);
  const other = encodeSignedPathInfo(samplePathInfo("2-b"));
  for (const object of [Buffer.from("junk"), Buffer.alloc(0), other]) {
    await objects.put(`pathinfo/${hash}`, object);
    await expect(service.get(hash)).rejects.toHaveProperty("code", "CORRUPT");
  }
});
