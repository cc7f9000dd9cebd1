import { expect, test } from "vitest";
import { isCastoreError } from "../src/castore-error.ts";
import { createMemoryBlobService } from "../src/services/memory-blob-service.ts";
import { createMemoryDirectoryService } from "../src/services/memory-directory-service.ts";
import { describeBlobService } from "./blob-service-suite.ts";
import { describeDirectoryService } from "./directory-service-suite.ts";

const close = async (): Promise<void> => {};

describeBlobService("memory", async () => ({ service: createMemoryBlobService(), close }));

describeDirectoryService("memory", async () => ({
  service: createMemoryDirectoryService(),
  close,
}));

test("the memory BlobService holds no more than its limit", async () => {
  const service = createMemoryBlobService({ bytesMax: 100 });
  await service.put([Buffer.alloc(60)]);
  const tooMuch = service.put([Buffer.alloc(30, 1), Buffer.alloc(11, 1)]);
  await expect(tooMuch).rejects.toSatisfy((error) => isCastoreError(error, "EXHAUSTED"));
  expect((await service.put([Buffer.alloc(40, 1)])).size).toBe(40);
});
