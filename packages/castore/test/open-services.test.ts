import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { openBlobService, openDirectoryService } from "../src/composition/open-services.ts";
import { createBlobGrpcService } from "../src/grpc/grpc-blob-handlers.ts";
import { createDirectoryGrpcService } from "../src/grpc/grpc-directory-handlers.ts";
import { EMPTY_DIGEST } from "../src/model/digest.ts";
import { directoryOf } from "../src/model/directory.ts";
import { createMemoryBlobService } from "../src/services/memory-blob-service.ts";
import { createMemoryDirectoryService } from "../src/services/memory-directory-service.ts";
import { parseBlobServiceUrl, parseDirectoryServiceUrl } from "../src/services/service-url.ts";
import { readAll } from "./blob-service-suite.ts";
import { openGrpcPair } from "./grpc-fixture.ts";

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "castore-url-"));
});
afterEach(() => rm(directory, { recursive: true }));

const BYTES = Buffer.from("some bytes");
const blobsAt = (url: string) => openBlobService(parseBlobServiceUrl(url));
const directoriesAt = (url: string) => openDirectoryService(parseDirectoryServiceUrl(url));

test("memory, files and gRPC are opened by their URLs", async () => {
  const pair = await openGrpcPair([
    createBlobGrpcService(createMemoryBlobService()),
    createDirectoryGrpcService(createMemoryDirectoryService()),
  ]);
  const grpc = pair.channel.target;
  for (const url of ["memory:", `file://${directory}/a%20b`, "objectstore+memory:///", grpc]) {
    await using blobs = await blobsAt(url);
    const { digest } = await blobs.service.put([new Uint8Array(BYTES)]);
    expect((await readAll(blobs.service, digest)).equals(BYTES)).toBe(true);
    await using directories = await directoriesAt(url);
    expect(await directories.service.putClosure([directoryOf([])])).toBe(EMPTY_DIGEST);
  }
  await using reopened = await blobsAt(`objectstore+file://${directory}/a b`.replace(" ", "%20"));
  expect(await reopened.service.has((await reopened.service.put([BYTES])).digest)).toBe(true);
  await pair.close();
});

test("a cache's URL names both of its parts", async () => {
  await using far = await blobsAt(`file://${directory}`);
  const { digest } = await far.service.put([new Uint8Array(BYTES)]);
  await using cached = await blobsAt(`cache:?near=memory:&far=objectstore%2Bfile://${directory}`);
  expect((await readAll(cached.service, digest)).equals(BYTES)).toBe(true);
});

test("what cannot be opened says so", async () => {
  const code = (promise: Promise<unknown>) =>
    promise.then(
      () => "opened",
      (error) => error.code,
    );
  expect(await code(directoriesAt("redb:/tmp/foo"))).toBe("UNSUPPORTED");
  expect(await code(blobsAt("objectstore+gs://bucket/path"))).toBe("UNSUPPORTED");
  expect(await code(blobsAt(`file://${directory}?mode=x`))).toBe("INVALID");
  expect(await code(blobsAt("cache:?near=memory:&far=file:///x%3Fmode=x"))).toBe("INVALID");
  expect(await code(blobsAt("grpc+unix:/nonexistent/socket?wait-connect=1"))).toBe("UNAVAILABLE");
  expect(await code(blobsAt("grpc+https://localhost?tls-ca-cert-path=/none"))).toBe("INVALID");
});
