import { afterEach, describe, expect, test } from "vitest";
import { CastoreError } from "../src/castore-error.ts";
import { createCachedBlobService } from "../src/composition/cached-blob-service.ts";
import { createCachedDirectoryService } from "../src/composition/cached-directory-service.ts";
import { createFirstBlobService } from "../src/composition/first-blob-service.ts";
import { createFirstDirectoryService } from "../src/composition/first-directory-service.ts";
import { byteStringOfText } from "../src/model/byte-string.ts";
import { digestOf, EMPTY_DIGEST } from "../src/model/digest.ts";
import { directoryOf } from "../src/model/directory.ts";
import { pathComponentOfText } from "../src/model/path-component.ts";
import { parseSymlinkTarget } from "../src/model/symlink-target.ts";
import { createMemoryObjectStore } from "../src/objects/memory-object-store.ts";
import { objectKey } from "../src/objects/object-store.ts";
import { createObjectStoreBlobService } from "../src/objects/object-store-blob-service.ts";
import { createObjectStoreDirectoryService } from "../src/objects/object-store-directory-service.ts";
import type { BlobService } from "../src/services/blob-service.ts";
import type { DirectoryService } from "../src/services/directory-service.ts";
import { createMemoryBlobService } from "../src/services/memory-blob-service.ts";
import { createMemoryDirectoryService } from "../src/services/memory-directory-service.ts";
import { SingleFlight } from "../src/services/single-flight.ts";
import type { CallOptions } from "../src/streams/byte-source.ts";
import { describeBlobService, join, readAll } from "./blob-service-suite.ts";
import { describeDirectoryService } from "./directory-service-suite.ts";
import { deferred } from "./grpc-fixture.ts";
import { prngBytes } from "./vectors.ts";

const close = async (): Promise<void> => {};
const LARGE = prngBytes(2_000_000);
const own = (bytes: Uint8Array) => new Uint8Array(bytes);

/** A clock on which every look is two seconds later, so that no absence is believed twice. */
function restless() {
  let time = 0;
  return { now: () => (time += 2_000) };
}

const blobPair = () => [createMemoryBlobService(), createMemoryBlobService()] as const;
const directoryPair = () =>
  [createMemoryDirectoryService(), createMemoryDirectoryService()] as const;

describeBlobService("cached, written through", async () => {
  const [near, far] = blobPair();
  return { service: createCachedBlobService(near, far), close };
});

describeBlobService("cached, filled from far", async () => {
  const [near, far] = blobPair();
  const cached = createCachedBlobService(near, far, restless());
  return { service: { ...cached, put: far.put }, close };
});

describeBlobService("cached, near too small for anything", async () => {
  const [, far] = blobPair();
  const near = createMemoryBlobService({ bytesMax: 0 });
  const cached = createCachedBlobService(near, far, restless());
  return { service: { ...cached, put: far.put }, close };
});

describeBlobService("first of two, found in the second", async () => {
  const [one, two] = blobPair();
  return { service: { ...createFirstBlobService([one, two]), put: two.put }, close };
});

describeDirectoryService("cached, written through", async () => {
  const [near, far] = directoryPair();
  return { service: createCachedDirectoryService(near, far), close };
});

describeDirectoryService("cached, filled from far", async () => {
  const [near, far] = directoryPair();
  const cached = createCachedDirectoryService(near, far, restless());
  return { service: { ...cached, putClosure: far.putClosure }, close };
});

describeDirectoryService("first of two, found in the second", async () => {
  const [one, two] = directoryPair();
  const first = createFirstDirectoryService([one, two]);
  return { service: { ...first, putClosure: two.putClosure }, close };
});

/** Counts the calls to `open`, each of which waits at `gate` when there is one. */
function counting(service: BlobService, gate?: Promise<void>) {
  const calls: { readonly signal: AbortSignal | undefined }[] = [];
  const counted: BlobService = {
    ...service,
    async open(digest, options) {
      calls.push({ signal: options?.signal });
      await gate;
      return await service.open(digest, options);
    },
  };
  return { service: counted, calls };
}

describe("a cache of blobs", () => {
  const digest = digestOf(LARGE);

  test("fetches a blob once, however many wait, and never again", async () => {
    const [near, memory] = blobPair();
    await memory.put([own(LARGE)]);
    const gate = deferred<void>();
    const far = counting(memory, gate.promise);
    const cached = createCachedBlobService(near, far.service);
    const readers = Array.from({ length: 50 }, () => readAll(cached, digest));
    gate.resolve();
    for (const bytes of await Promise.all(readers)) expect(bytes.equals(LARGE)).toBe(true);
    await readAll(cached, digest);
    expect(far.calls).toHaveLength(1);
  });

  test("one who leaves does not disturb the others; the last one ends the fetch", async () => {
    const [near, memory] = blobPair();
    await memory.put([own(LARGE)]);
    const gate = deferred<void>();
    const far = counting(memory, gate.promise);
    const cached = createCachedBlobService(near, far.service);
    const leavers = [new AbortController(), new AbortController()];
    const left = leavers.map(({ signal }) => cached.open(digest, { signal }));
    const stayed = readAll(cached, digest);
    const gone = Promise.all(left.map((it) => expect(it).rejects.toBe("gone")));
    for (const leaver of leavers) leaver.abort("gone");
    await gone;
    expect(far.calls).toHaveLength(1);
    expect(far.calls[0]?.signal?.aborted).toBe(false);
    gate.resolve();
    expect((await stayed).equals(LARGE)).toBe(true);

    const silent = counting(memory, new Promise(() => {}));
    const other = createCachedBlobService(createMemoryBlobService(), silent.service);
    const controller = new AbortController();
    const alone = other.open(digest, { signal: controller.signal });
    const rejected = expect(alone).rejects.toBe("gone");
    await Promise.resolve();
    while (silent.calls.length === 0) await new Promise(setImmediate);
    controller.abort("gone");
    await rejected;
    expect(silent.calls[0]?.signal?.aborted).toBe(true);
  });

  test("a failure goes to all who wait, leaves nothing, and is forgotten", async () => {
    const [near, memory] = blobPair();
    await memory.put([own(LARGE)]);
    let failing = true;
    const far: BlobService = {
      ...memory,
      async open(wanted, options) {
        if (failing) throw new CastoreError("UNAVAILABLE", "far is down");
        return await memory.open(wanted, options);
      },
    };
    const cached = createCachedBlobService(near, far);
    const both = [cached.open(digest), cached.open(digest)];
    for (const open of both) await expect(open).rejects.toHaveProperty("code", "UNAVAILABLE");
    expect(await near.has(digest)).toBe(false);
    failing = false;
    expect((await readAll(cached, digest)).equals(LARGE)).toBe(true);
  });

  test("believes for a second that far lacks a blob, unless it is put", async () => {
    const [near, memory] = blobPair();
    const far = counting(memory);
    let time = 0;
    const cached = createCachedBlobService(near, far.service, { now: () => time });
    expect(await cached.open(digest)).toBeUndefined();
    expect(await cached.open(digest)).toBeUndefined();
    expect(await cached.has(digest)).toBe(false);
    expect(far.calls).toHaveLength(1);
    await memory.put([own(LARGE)]);
    time = 999;
    expect(await cached.open(digest)).toBeUndefined();
    time = 1_000;
    expect((await readAll(cached, digest)).equals(LARGE)).toBe(true);
    expect(far.calls).toHaveLength(2);
    const small = Buffer.from("small");
    expect(await cached.has(digestOf(small))).toBe(false);
    await cached.put([own(small)]);
    expect(await cached.has(digestOf(small))).toBe(true);
  });

  test("asks far for a list of chunks once, also of a blob that near holds whole", async () => {
    const near = createMemoryBlobService();
    const chunking = createObjectStoreBlobService(createMemoryObjectStore());
    await chunking.put([own(LARGE)]);
    await near.put([own(LARGE)]);
    let asked = 0;
    const chunks = (...args: Parameters<BlobService["chunks"]>) => {
      asked++;
      return chunking.chunks(...args);
    };
    const cached = createCachedBlobService(near, { ...chunking, chunks });
    const list = await cached.chunks(digest);
    expect(list?.length).toBeGreaterThan(3);
    expect(await cached.chunks(digest)).toEqual(list);
    expect(asked).toBe(1);
  });

  test("reads from far what near has spoilt, in the middle and from the start", async () => {
    const objects = createMemoryObjectStore();
    const far = createMemoryBlobService();
    await far.put([own(LARGE)]);
    await createObjectStoreBlobService(objects).put([own(LARGE)]);
    const chunks = (await createObjectStoreBlobService(objects).chunks(digest)) ?? [];
    for (const chunk of [chunks.at(-1), chunks[0]]) {
      await objects.put(objectKey("chunks", chunk?.digest ?? digest), Buffer.from("spoilt"));
      const cached = createCachedBlobService(createObjectStoreBlobService(objects), far);
      expect((await readAll(cached, digest)).equals(LARGE)).toBe(true);
    }
    await objects.put(objectKey("blobs", digest), Buffer.from("spoilt"));
    const cached = createCachedBlobService(createObjectStoreBlobService(objects), far);
    expect((await readAll(cached, digest)).equals(LARGE)).toBe(true);
  });
});

describe("single flights", () => {
  const resolvers: (() => void)[] = [];
  afterEach(() => {
    for (const resolve of resolvers.splice(0)) resolve();
  });

  test("only so many fly at once; who leaves before is not started", async () => {
    const flights = new SingleFlight<string>(2);
    const started: string[] = [];
    const go = new Map<string, () => void>();
    const start = (key: string) => async () => {
      started.push(key);
      await new Promise<void>((resolve) => go.set(key, resolve));
      return key;
    };
    const controller = new AbortController();
    const results = ["a", "b", "c", "d"].map((key) =>
      flights.run(key, start(key), key === "c" ? { signal: controller.signal } : {}),
    );
    const left = expect(results[2]).rejects.toBe("gone");
    await new Promise(setImmediate);
    expect(started).toEqual(["a", "b"]);
    controller.abort("gone");
    await left;
    go.get("b")?.();
    expect(await results[1]).toBe("b");
    await new Promise(setImmediate);
    expect(started).toEqual(["a", "b", "d"]);
    go.get("a")?.();
    go.get("d")?.();
    expect(await results[0]).toBe("a");
    expect(await results[3]).toBe("d");
  });

  test("a flight that was abandoned does not answer those who come after", async () => {
    const flights = new SingleFlight<number>();
    const controller = new AbortController();
    let runs = 0;
    const start = async () => {
      runs++;
      if (runs === 1) await new Promise(() => {});
      return runs;
    };
    const first = flights.run("k", start, { signal: controller.signal });
    const rejected = expect(first).rejects.toBe("gone");
    controller.abort("gone");
    await rejected;
    expect(await flights.run("k", start)).toBe(2);
  });
});

const symlink = {
  type: "symlink",
  target: parseSymlinkTarget(byteStringOfText("target")),
} as const;
const leaf = directoryOf([{ name: pathComponentOfText("link"), node: symlink }]);
const nested = (digest: ReturnType<typeof digestOf>, size: number, name = "d") =>
  directoryOf([{ name: pathComponentOfText(name), node: { type: "directory", digest, size } }]);

describe("a cache of directories", () => {
  test("finds every directory of a closure of which far only has the root", async () => {
    const near = createMemoryDirectoryService();
    const objects = createMemoryObjectStore();
    const far = createObjectStoreDirectoryService(objects);
    const child = await createMemoryDirectoryService().putClosure([leaf]);
    const root = await far.putClosure([leaf, nested(child, leaf.size)]);
    const cached = createCachedDirectoryService(near, far, restless());
    expect(await cached.get(child)).toBeUndefined();
    expect((await cached.get(root))?.entries).toHaveLength(1);
    expect((await cached.get(child))?.entries).toEqual(leaf.entries);
  });

  test("fetches a closure once, however many wait", async () => {
    const [near, memory] = directoryPair();
    const root = await memory.putClosure([leaf]);
    let fetched = 0;
    const far: DirectoryService = {
      ...memory,
      getClosure(digest, options) {
        fetched++;
        return memory.getClosure(digest, options);
      },
    };
    const cached = createCachedDirectoryService(near, far);
    await Promise.all(Array.from({ length: 20 }, () => cached.get(root)));
    for await (const _ of cached.getClosure(root));
    expect(fetched).toBe(1);
  });

  test("puts a closure into near whose children only far has", async () => {
    const [near, far] = directoryPair();
    const child = await far.putClosure([leaf]);
    const cached = createCachedDirectoryService(near, far);
    const root = await cached.putClosure([nested(child, leaf.size)]);
    expect((await near.get(child))?.entries).toEqual(leaf.entries);
    expect(await far.get(root)).toBeUndefined();
  });
});

describe("the first of several", () => {
  const broken = (code: CastoreError["code"]): BlobService => {
    const fail = async (): Promise<never> => {
      throw new CastoreError(code, `${code} here`);
    };
    return { has: fail, open: fail, put: fail, chunks: fail };
  };
  const digest = digestOf(LARGE);

  test("one that fails is passed over, but then absence is not known", async () => {
    const memory = createMemoryBlobService();
    const first = createFirstBlobService([broken("UNAVAILABLE"), broken("DENIED"), memory]);
    await expect(first.has(digest)).rejects.toHaveProperty("code", "UNAVAILABLE");
    await expect(first.open(digest)).rejects.toHaveProperty("code", "UNAVAILABLE");
    await memory.put([own(LARGE)]);
    expect(await first.has(digest)).toBe(true);
    expect((await readAll(first, digest)).equals(LARGE)).toBe(true);
  });

  test("a bug is not passed over", async () => {
    const bug = new TypeError("bug");
    const first = createFirstBlobService([
      { ...createMemoryBlobService(), has: () => Promise.reject(bug) },
      createMemoryBlobService(),
    ]);
    await expect(first.has(digest)).rejects.toBe(bug);
  });

  test("where the first fails in the middle of a blob, the second goes on", async () => {
    const objects = createMemoryObjectStore();
    const one = createObjectStoreBlobService(objects);
    const two = createMemoryBlobService();
    for (const service of [one, two]) await service.put([own(LARGE)]);
    const last = (await one.chunks(digest))?.at(-1);
    await objects.delete(objectKey("chunks", last?.digest ?? digest));
    const first = createFirstBlobService([one, createMemoryBlobService(), two]);
    expect((await readAll(first, digest)).equals(LARGE)).toBe(true);
    const reader = await first.open(digest);
    const range = await join(reader?.stream(1_000_000, 1_999_999) ?? []);
    expect(range.equals(LARGE.subarray(1_000_000, 1_999_999))).toBe(true);
    const alone = createFirstBlobService([one]);
    await expect(readAll(alone, digest)).rejects.toHaveProperty("code", "INCOMPLETE");
  });

  test("writes are refused", async () => {
    const refused = expect.objectContaining({ code: "READ_ONLY" });
    await expect(createFirstBlobService([]).put([])).rejects.toEqual(refused);
    await expect(createFirstDirectoryService([]).putClosure([])).rejects.toEqual(refused);
  });

  test("of no services nothing is there", async () => {
    expect(await createFirstBlobService([]).open(EMPTY_DIGEST)).toBeUndefined();
    expect(await createFirstDirectoryService([]).get(EMPTY_DIGEST)).toBeUndefined();
  });

  test("a closure is served by one service alone", async () => {
    const memory = createMemoryDirectoryService();
    const root = await memory.putClosure([leaf]);
    const failing: DirectoryService = {
      ...memory,
      async *getClosure(wanted, options: CallOptions = {}) {
        yield* memory.getClosure(wanted, options);
        throw new CastoreError("INCOMPLETE", "a child is missing");
      },
    };
    const read = async (services: readonly DirectoryService[]) => {
      for await (const _ of createFirstDirectoryService(services).getClosure(root));
    };
    await expect(read([failing, memory])).rejects.toHaveProperty("code", "INCOMPLETE");
    await read([createMemoryDirectoryService(), memory]);
  });
});
