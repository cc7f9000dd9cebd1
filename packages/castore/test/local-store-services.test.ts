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

describeRootStore("local", () => storeFixture((store) => store));

describeStoreTable("local", () => storeFixture((store) => store.table("test")));
