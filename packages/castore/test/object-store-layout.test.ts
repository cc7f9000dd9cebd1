import { execFileSync } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join as joinPath } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { isCastoreError } from "../src/castore-error.ts";
import { digestOf, EMPTY_DIGEST, parseDigest } from "../src/model/digest.ts";
import { decodeDirectory } from "../src/model/directory-codec.ts";
import { openFileObjectStore } from "../src/objects/file-object-store.ts";
import { createMemoryObjectStore } from "../src/objects/memory-object-store.ts";
import { type ObjectStore, objectKey } from "../src/objects/object-store.ts";
import { createObjectStoreBlobService } from "../src/objects/object-store-blob-service.ts";
import { createObjectStoreDirectoryService } from "../src/objects/object-store-directory-service.ts";
import { zstdCompress, zstdDecompress } from "../src/streams/zstd.ts";
import { join, readAll } from "./blob-service-suite.ts";
import { blobVector, generate, prngBytes, vector, vectors } from "./vectors.ts";

const LARGE = prngBytes(3_000_000);
const HELLO = blobVector("HELLOWORLD_BLOB");
const modulePath = new URL("../dist/objects/file-object-store.js", import.meta.url).pathname;
const nodeEval = [process.execPath, "--input-type=module", "-e"];

async function keysOf(objects: ObjectStore): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of objects.list("")) keys.push(key);
  return keys;
}

async function uncompressed(objects: ObjectStore, key: string): Promise<Buffer> {
  return Buffer.from(zstdDecompress((await objects.get(key)) ?? Buffer.alloc(0), 1 << 24));
}

function fixture(name: string): Buffer {
  return Buffer.from(vector(vectors.directories, name).rust.proto_hex, "hex");
}

describe("keys are snix's", () => {
  const [blobKey, chunkKey] = [
    vector(vectors.object_store_keys, "HELLOWORLD_blob"),
    vector(vectors.object_store_keys, "HELLOWORLD_chunk"),
  ];

  test("a blob of one chunk has an empty index and a compressed chunk", async () => {
    const objects = createMemoryObjectStore();
    await createObjectStoreBlobService(objects).put([new Uint8Array(HELLO)]);
    expect(await keysOf(objects)).toEqual([blobKey, chunkKey]);
    expect(await objects.get(blobKey)).toHaveLength(0);
    expect(await uncompressed(objects, chunkKey)).toEqual(HELLO);
  });

  test("the empty blob has an index and no chunk, and can be opened without", async () => {
    const objects = createMemoryObjectStore();
    const blobs = createObjectStoreBlobService(objects);
    expect((await blobs.open(EMPTY_DIGEST))?.size).toBe(0);
    expect(await blobs.has(EMPTY_DIGEST)).toBe(false);
    await blobs.put([]);
    expect(await keysOf(objects)).toEqual([objectKey("blobs", EMPTY_DIGEST)]);
  });

  test("a closure is one object under its root", async () => {
    const objects = createMemoryObjectStore();
    const directories = createObjectStoreDirectoryService(objects);
    const { DIRECTORY_COMPLICATED_rust_uncompressed_hex: complicated = "" } =
      vectors.object_store_dirs_payload;
    const key = vector(vectors.object_store_keys, "DIRECTORY_COMPLICATED_rust_dirs");
    const [keep, root] = ["DIRECTORY_WITH_KEEP", "DIRECTORY_COMPLICATED"].map(fixture);
    if (keep === undefined || root === undefined) throw new Error("a fixture is missing");
    await directories.putClosure([decodeDirectory(keep), decodeDirectory(root)]);
    expect(await keysOf(objects)).toEqual([key]);
    expect((await uncompressed(objects, key)).toString("hex")).toBe(complicated);
  });

  test("a closure that refers to the empty directory twice holds it once", async () => {
    const objects = createMemoryObjectStore();
    const directories = createObjectStoreDirectoryService(objects);
    const closure = ["DIRECTORY_A", "DIRECTORY_C"].map(fixture);
    const root = await directories.putClosure(closure.map((bytes) => decodeDirectory(bytes)));
    const payload = await uncompressed(objects, objectKey("dirs", root));
    const { DIRECTORY_C_uncompressed_hex: expected } = vectors.object_store_dirs_payload;
    expect(payload.toString("hex")).toBe(expected);
  });

  const indexed = vectors.fastcdc.cases.filter(
    ({ avg, blob_index_proto_hex: hex }) => avg === 262_144 && hex !== undefined,
  );
  test.each(indexed)(
    "the index of $name",
    async ({ generator, len, blob_index_proto_hex: hex }) => {
      const objects = createMemoryObjectStore();
      const bytes = generate(generator, len);
      const blobs = createObjectStoreBlobService(objects);
      const { digest } = await blobs.put([new Uint8Array(bytes)]);
      const index = await objects.get(objectKey("blobs", digest));
      expect(index?.toString("hex")).toBe(hex);
      expect((await readAll(blobs, digest)).equals(bytes)).toBe(true);
    },
  );

  test("there are indexes to compare with", () => {
    expect(indexed.length).toBeGreaterThan(1);
  });
});

/** An object store that notes what is asked of it, in order. */
function noting(objects: ObjectStore): { objects: ObjectStore; calls: string[] } {
  const calls: string[] = [];
  const noted: ObjectStore = {
    ...objects,
    get: (key, options) => {
      calls.push(`GET ${key.slice(0, 6)}`);
      return objects.get(key, options);
    },
    head: (key, options) => {
      calls.push(`HEAD ${key.slice(0, 6)}`);
      return objects.head(key, options);
    },
    put: (key, bytes, options) => {
      calls.push(`PUT ${key.slice(0, 6)}`);
      return objects.put(key, bytes, options);
    },
  };
  return { objects: noted, calls };
}

describe("what a blob costs", () => {
  test("put asks before it sends, the index last; a second put sends nothing", async () => {
    const { objects, calls } = noting(createMemoryObjectStore());
    const { digest } = await createObjectStoreBlobService(objects).put([new Uint8Array(LARGE)]);
    const chunks = (await createObjectStoreBlobService(objects).chunks(digest))?.length ?? 0;
    expect(chunks).toBeGreaterThan(5);
    const count = (call: string) => calls.filter((it) => it === call).length;
    expect(count("HEAD chunks")).toBe(chunks);
    expect(count("PUT chunks")).toBe(chunks);
    expect(calls.slice(-3)).toEqual(["HEAD blobs/", "PUT blobs/", "GET blobs/"]);
    calls.length = 0;
    await createObjectStoreBlobService(objects).put([new Uint8Array(LARGE)]);
    expect(calls.filter((call) => call.startsWith("PUT"))).toEqual([]);
    calls.length = 0;
    await createObjectStoreBlobService(objects).put([new Uint8Array(LARGE)], { expect: digest });
    expect(calls).toEqual(["HEAD blobs/"]);
  });

  test("opening a small blob is one request, and a list is fetched once", async () => {
    const { objects, calls } = noting(createMemoryObjectStore());
    const writer = createObjectStoreBlobService(objects);
    const small = await writer.put([new Uint8Array(HELLO)]);
    const large = await writer.put([new Uint8Array(LARGE)]);
    const blobs = createObjectStoreBlobService(objects);
    calls.length = 0;
    await readAll(blobs, small.digest);
    expect(calls).toEqual(["GET chunks"]);
    calls.length = 0;
    await blobs.open(large.digest);
    await blobs.open(large.digest);
    await blobs.chunks(large.digest);
    expect(calls).toEqual(["GET chunks", "GET blobs/"]);
  });
});

describe("objects that are wrong", () => {
  const start = async () => {
    const objects = createMemoryObjectStore();
    const blobs = createObjectStoreBlobService(objects);
    const { digest } = await blobs.put([new Uint8Array(LARGE)]);
    const chunk = (await blobs.chunks(digest))?.[1];
    if (chunk === undefined) throw new Error("no chunks");
    return { objects, blobs: createObjectStoreBlobService(objects), digest, chunk };
  };
  const corrupt = expect.objectContaining({ code: "CORRUPT" });

  test.each([
    ["cut short", (bytes: Buffer) => bytes.subarray(0, -1)],
    ["no zstd", () => Buffer.from("not zstd at all")],
    ["empty", () => Buffer.alloc(0)],
    ["other bytes", () => Buffer.from(zstdCompress(Buffer.from("other")))],
    ["as long, one bit flipped", (bytes: Buffer) => flip(bytes)],
    ["a bomb", () => Buffer.from(zstdCompress(Buffer.alloc(16 << 20)))],
  ])("a chunk that is %s is CORRUPT", async (_, spoil) => {
    const { objects, blobs, digest, chunk } = await start();
    const key = objectKey("chunks", chunk.digest);
    await objects.put(key, spoil((await objects.get(key)) ?? Buffer.alloc(0)));
    await expect(readAll(blobs, digest)).rejects.toEqual(corrupt);
    await expect(blobs.open(chunk.digest)).rejects.toEqual(corrupt);
  });

  test("a missing chunk is INCOMPLETE", async () => {
    const { objects, blobs, digest, chunk } = await start();
    await objects.delete(objectKey("chunks", chunk.digest));
    await expect(readAll(blobs, digest)).rejects.toHaveProperty("code", "INCOMPLETE");
  });

  test("an index that is malformed or another blob's is CORRUPT, before any range", async () => {
    const { objects, digest } = await start();
    const other = await createObjectStoreBlobService(objects).put([
      new Uint8Array(LARGE.subarray(9)),
    ]);
    const key = objectKey("blobs", digest);
    for (const index of [
      Buffer.from("12240a", "hex"),
      (await objects.get(objectKey("blobs", other.digest))) ?? Buffer.alloc(0),
    ]) {
      await objects.put(key, index);
      const blobs = createObjectStoreBlobService(objects);
      const read = async () => {
        const reader = await blobs.open(digest);
        await join(reader?.stream(5, 10) ?? []);
      };
      await expect(read()).rejects.toEqual(corrupt);
    }
  });

  test("a closure that is cut short, or another's, is refused", async () => {
    const objects = createMemoryObjectStore();
    const directories = createObjectStoreDirectoryService(objects);
    const [keep, root] = ["DIRECTORY_WITH_KEEP", "DIRECTORY_COMPLICATED"].map(fixture);
    if (keep === undefined || root === undefined) throw new Error("a fixture is missing");
    const digest = await directories.putClosure([decodeDirectory(keep), decodeDirectory(root)]);
    const key = objectKey("dirs", digest);
    const payload = await uncompressed(objects, key);
    const closure = async () => {
      for await (const _ of directories.getClosure(digest));
    };
    const frame = (directory: Buffer) => [u32(directory.byteLength), directory];
    for (const [bytes, code] of [
      [payload.subarray(0, -1), "CORRUPT"],
      [payload.subarray(0, 4 + root.byteLength), "INCOMPLETE"],
      [Buffer.concat(frame(keep)), "CORRUPT"],
      [Buffer.concat([...frame(root), ...frame(root), u32(1), Buffer.from([9])]), "CORRUPT"],
      [Buffer.concat([u32(0xffffffff)]), "EXHAUSTED"],
    ] as const) {
      await objects.put(key, zstdCompress(bytes));
      await expect(closure()).rejects.toHaveProperty("code", code);
    }
  });
});

test("whatever lies where a closure or an index should, the fault is a CastoreError", async () => {
  const objects = createMemoryObjectStore();
  const directories = createObjectStoreDirectoryService(objects);
  const root = fixture("DIRECTORY_COMPLICATED");
  const keep = fixture("DIRECTORY_WITH_KEEP");
  const closure = [decodeDirectory(keep), decodeDirectory(root)];
  const digest = await directories.putClosure(closure);
  const payload = await uncompressed(objects, objectKey("dirs", digest));
  const faultOf = async (read: () => Promise<unknown>) => {
    try {
      await read();
    } catch (error) {
      expect(isCastoreError(error), `${error}`).toBe(true);
    }
  };
  const mutation = fc.record({ at: fc.nat(payload.length - 1), byte: fc.nat(255), cut: fc.nat(9) });
  await fc.assert(
    fc.asyncProperty(fc.array(mutation, { maxLength: 3 }), async (mutations) => {
      const mutated = Buffer.from(payload);
      for (const { at, byte } of mutations) mutated[at] = byte;
      const bytes = mutated.subarray(0, payload.length - (mutations[0]?.cut ?? 0));
      await objects.put(objectKey("dirs", digest), zstdCompress(bytes));
      await objects.put(objectKey("blobs", digest), bytes);
      await faultOf(() => collectClosure(directories.getClosure(digest)));
      await faultOf(() => readAll(createObjectStoreBlobService(objects), digest));
    }),
    { numRuns: 300 },
  );
});

async function collectClosure(directories: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of directories);
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function flip(bytes: Buffer): Buffer {
  const flipped = Buffer.from(bytes);
  flipped[bytes.length >> 1] = (flipped[bytes.length >> 1] ?? 0) ^ 1;
  return flipped;
}

describe("the file store", () => {
  test("temporary files begin with .tmp-, are not listed, and old ones are swept", async () => {
    const directory = await mkdtemp(joinPath(tmpdir(), "castore-objects-"));
    const [old, fresh] = [".tmp-old", ".tmp-fresh"].map((name) => joinPath(directory, name));
    if (old === undefined || fresh === undefined) throw new Error("unreachable");
    await writeFile(old, "x");
    await writeFile(fresh, "x");
    const before = new Date(Date.now() - 25 * 3_600_000);
    await utimes(old, before, before);
    const objects = await openFileObjectStore(directory);
    const key = objectKey("chunks", parseDigest(digestOf(HELLO)));
    await objects.put(key, HELLO);
    expect(await keysOf(objects)).toEqual([key]);
    expect((await readdir(directory)).sort()).toEqual([".tmp-fresh", "chunks"]);
    await rm(directory, { recursive: true });
  });

  test("a directory that cannot be written says why", async () => {
    const directory = await mkdtemp(joinPath(tmpdir(), "castore-objects-"));
    await writeFile(joinPath(directory, "file"), "");
    const opened = openFileObjectStore(joinPath(directory, "file", "below"));
    await expect(opened).rejects.toThrow(/^file:\/\/.*ENOTDIR/);
    await rm(directory, { recursive: true });
  });

  test("a full disk is EXHAUSTED and leaves nothing behind", async () => {
    const directory = await mkdtemp(joinPath(tmpdir(), "castore-full-"));
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=256k", "castore-test", directory]);
    try {
      const objects = await openFileObjectStore(joinPath(directory, "objects"));
      await objects.put("small", Buffer.alloc(1_000));
      const put = objects.put("large", LARGE);
      await expect(put).rejects.toHaveProperty("code", "EXHAUSTED");
      expect(await keysOf(objects)).toEqual(["small"]);
      expect(await readdir(joinPath(directory, "objects"))).toEqual(["small"]);
      execFileSync("mount", ["-o", "remount,ro", directory]);
      const readOnly = objects.put("other", Buffer.alloc(1));
      await expect(readOnly).rejects.toHaveProperty("code", "READ_ONLY");
      expect(await objects.get("small")).toHaveLength(1_000);
    } finally {
      execFileSync("umount", [directory]);
      await rm(directory, { recursive: true });
    }
  });

  test("data is flushed before it gets its name, and the name before put() resolves", async () => {
    const directory = await mkdtemp(joinPath(tmpdir(), "castore-strace-"));
    const trace = joinPath(directory, "trace");
    const script = `
      import { openFileObjectStore } from ${JSON.stringify(modulePath)};
      const objects = await openFileObjectStore(${JSON.stringify(joinPath(directory, "o"))});
      await objects.put("a/b", Buffer.from("bytes"), { ifAbsent: true });
      process.stdout.write("acknowledged");
    `;
    const calls = "trace=fdatasync,fsync,link,linkat,rename,renameat,renameat2,write";
    execFileSync("strace", ["-f", "-o", trace, "-e", calls, ...nodeEval, script]);
    const order = (await readFile(trace, "utf8"))
      .split("\n")
      .map((line) => /(fdatasync|fsync|link|linkat|acknowledged)[("]/.exec(line)?.[1])
      .filter((call) => call !== undefined);
    const at = order.findIndex((call) => call?.startsWith("link"));
    expect(order.slice(0, at)).toContain("fdatasync");
    expect(order.slice(at + 1)).toEqual(["fsync", "acknowledged"]);
    await rm(directory, { recursive: true });
  });
});
