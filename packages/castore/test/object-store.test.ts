import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll } from "vitest";
import { type S3Server, startS3Server } from "../../../test/support/s3-server.ts";
import { openFileObjectStore } from "../src/objects/file-object-store.ts";
import { createMemoryObjectStore } from "../src/objects/memory-object-store.ts";
import type { ObjectStore } from "../src/objects/object-store.ts";
import { createObjectStoreBlobService } from "../src/objects/object-store-blob-service.ts";
import { createObjectStoreDirectoryService } from "../src/objects/object-store-directory-service.ts";
import { openS3ObjectStore, resolveS3Location } from "../src/objects/s3-object-store.ts";
import { describeBlobService, type Fixture } from "./blob-service-suite.ts";
import { describeDirectoryService } from "./directory-service-suite.ts";
import { describeObjectStore } from "./object-store-suite.ts";

let server: S3Server;
let prefixes = 0;
beforeAll(async () => {
  server = await startS3Server();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

const close = async (): Promise<void> => {};

async function memory(): Promise<Fixture<ObjectStore>> {
  return { service: createMemoryObjectStore(), close };
}

async function file(): Promise<Fixture<ObjectStore>> {
  const directory = await mkdtemp(join(tmpdir(), "castore-objects-"));
  const service = await openFileObjectStore(directory);
  return { service, close: () => rm(directory, { recursive: true }) };
}

async function s3(): Promise<Fixture<ObjectStore>> {
  const options = new Map([
    ["endpoint", server.url],
    ["aws_access_key_id", server.accessKeyId],
    ["aws_secret_access_key", server.secretAccessKey],
  ]);
  const location = `//${server.bucket}/suite/${prefixes++}`;
  const service = openS3ObjectStore(await resolveS3Location(location, options, {}), {
    pageKeys: 7,
  });
  return { service, close: () => service.close() };
}

for (const [name, make] of Object.entries({ memory, file, s3 })) {
  describeObjectStore(name, make);

  describeBlobService(`object store (${name})`, async () => {
    const objects = await make();
    return { service: createObjectStoreBlobService(objects.service), close: objects.close };
  });

  describeDirectoryService(
    `object store (${name})`,
    async () => {
      const objects = await make();
      return { service: createObjectStoreDirectoryService(objects.service), close: objects.close };
    },
    { rootsOnly: true },
  );
}
