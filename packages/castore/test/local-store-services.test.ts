import { expect, it } from "vitest";
import { digestOf } from "../src/model/digest.ts";
import { directoryOf } from "../src/model/directory.ts";
import { encodeDirectory } from "../src/model/directory-codec.ts";
import { describeBlobService } from "./blob-service-suite.ts";
import { describeDirectoryService } from "./directory-service-suite.ts";
import { storeFixture } from "./local-store-fixture.ts";
import { describeRootStore } from "./root-store-suite.ts";
import { describeStoreTable } from "./store-table-suite.ts";

describeBlobService("local", () => storeFixture((store) => store.blobs));

describeBlobService("local, in a normal form", () =>
  storeFixture((store) => store.blobsFor(["0123456789abcdfghijklmnpqrsvwxyz"])),
);

describeDirectoryService("local", () => storeFixture((store) => store.directories));

it("directories that are there are at hand, others are not", async () => {
  const { service, close } = await storeFixture((store) => store.directories);
  const inner = directoryOf([]);
  const digest = digestOf(encodeDirectory(inner));
  expect(service.peek(digest)).toBeUndefined();
  await service.putClosure([inner]);
  expect(service.peek(digest)).toEqual(encodeDirectory(inner));
  await close();
});

describeRootStore("local", () => storeFixture((store) => store));

describeStoreTable("local", () => storeFixture((store) => store.table("test")));
