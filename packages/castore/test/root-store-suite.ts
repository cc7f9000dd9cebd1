import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { isCastoreError } from "../src/castore-error.ts";
import type { BlobService, DirectoryService, Node, RootRecord, RootStore } from "../src/index.ts";
import { byteStringOfText } from "../src/model/byte-string.ts";
import { EMPTY_DIGEST, parseDigest } from "../src/model/digest.ts";
import { directoryOf } from "../src/model/directory.ts";
import { parseSymlinkTarget } from "../src/model/symlink-target.ts";
import type { Fixture } from "./blob-service-suite.ts";

/** A RootStore and where its nodes lie. */
export interface RootedServices {
  readonly roots: RootStore;
  readonly blobs: BlobService;
  readonly directories: DirectoryService;
}

const ABSENT = parseDigest("00".repeat(32));
export const SYMLINK: Node = {
  type: "symlink",
  target: parseSymlinkTarget(byteStringOfText("somewhere")),
};

/** The contract of RootStore, line by line. Every implementation calls this once. */
export function describeRootStore(
  name: string,
  make: () => Promise<Fixture<RootedServices>>,
): void {
  describe(`${name} as a RootStore`, () => {
    let fixture: Fixture<RootedServices>;
    beforeEach(async () => {
      fixture = await make();
    });
    afterEach(() => fixture.close());
    describeRecords(() => fixture.service);
    describeNodes(() => fixture.service);
  });
}

function describeRecords(services: () => RootedServices): void {
  test("a record that was never put is absent", async () => {
    expect(await services().roots.get("nothing")).toBeUndefined();
    expect(await services().roots.delete("nothing")).toBe(false);
    expect(await keys(services().roots)).toEqual([]);
  });

  test("a record comes back as it was put", async () => {
    const { roots } = services();
    const payload = Buffer.from([0, 1, 255]);
    await roots.put([record("key", { references: ["key", "other"], payload })]);
    const got = await roots.get("key");
    expect(got?.node).toEqual(SYMLINK);
    expect(got?.references).toEqual(["key", "other"]);
    expect(Buffer.from(got?.payload ?? []).equals(payload)).toBe(true);
  });

  test("put() replaces a record, and delete() says whether there was one", async () => {
    const { roots } = services();
    await roots.put([record("key", { payload: Buffer.from("old") })]);
    await roots.put([record("key", { payload: Buffer.from("new") })]);
    expect(Buffer.from((await roots.get("key"))?.payload ?? []).toString()).toBe("new");
    expect(await roots.delete("key")).toBe(true);
    expect(await roots.delete("key")).toBe(false);
    expect(await roots.get("key")).toBeUndefined();
  });

  test("list() goes in order of key, over any number of records", async () => {
    const { roots } = services();
    const names = Array.from({ length: 1000 }, (_, i) => `${(i * 7919) % 1000}-root`);
    await roots.put(names.map((name) => record(name)));
    expect(await keys(roots)).toEqual([...names].sort());
  });

  test("touch() of any key is allowed", async () => {
    const { roots } = services();
    await roots.put([record("key")]);
    roots.touch("key");
    roots.touch("absent");
    expect(await keys(roots)).toEqual(["key"]);
  });

  test.each([
    ["empty", ""],
    ["too long", "x".repeat(201)],
    ["not ASCII", "é"],
    ["NUL", "a\0b"],
  ])("a key that is %s is refused", async (_, key) => {
    const put = services().roots.put([record("fine"), record(key)]);
    await expect(put).rejects.toSatisfy((error) => isCastoreError(error, "INVALID"));
    expect(await keys(services().roots)).toEqual([]);
  });

  test("a signal that has already aborted ends every call with its reason", async () => {
    const { roots } = services();
    const reason = new Error("the caller went away");
    const signal = AbortSignal.abort(reason);
    await roots.put([record("key")]);
    await expect(roots.get("key", { signal })).rejects.toBe(reason);
    await expect(roots.put([record("other")], { signal })).rejects.toBe(reason);
    await expect(roots.delete("key", { signal })).rejects.toBe(reason);
    await expect(keys(roots, signal)).rejects.toBe(reason);
    expect(await keys(roots)).toEqual(["key"]);
  });
}

function describeNodes(services: () => RootedServices): void {
  const file: Node = { type: "file", digest: ABSENT, size: 1, executable: false };
  const directory: Node = { type: "directory", digest: ABSENT, size: 0 };

  test.each([file, directory])(
    "a root whose $type is absent is refused, all or none",
    async (node) => {
      const put = services().roots.put([record("fine"), record("dangling", { node })]);
      await expect(put).rejects.toSatisfy((error) => isCastoreError(error, "INCOMPLETE"));
      expect(await keys(services().roots)).toEqual([]);
    },
  );

  test("a root may be a directory, a file or a symlink", async () => {
    const { roots, blobs, directories } = services();
    await directories.putClosure([directoryOf([])]);
    const { digest, size } = await blobs.put([Buffer.from("content")]);
    const nodes: Node[] = [
      { type: "directory", digest: EMPTY_DIGEST, size: 0 },
      { type: "file", digest, size, executable: true },
      SYMLINK,
    ];
    await roots.put(nodes.map((node) => record(node.type, { node })));
    for (const node of nodes) expect((await roots.get(node.type))?.node).toEqual(node);
  });
}

/** A record of a symlink, unless `parts` say otherwise. */
export function record(key: string, parts: Partial<RootRecord> = {}): RootRecord {
  return { key, node: SYMLINK, references: [], payload: Buffer.alloc(0), ...parts };
}

async function keys(roots: RootStore, signal?: AbortSignal): Promise<string[]> {
  const found: string[] = [];
  for await (const { key } of roots.list({ signal })) found.push(key);
  return found;
}
