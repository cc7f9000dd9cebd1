import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { isCastoreError } from "../src/castore-error.ts";
import type { BlobReader, BlobService, ByteSource } from "../src/index.ts";
import { type Digest, digestOf, EMPTY_DIGEST, parseDigest } from "../src/model/digest.ts";
import { putBlobs } from "../src/services/put-blobs.ts";
import { blobVector, prngBytes } from "./vectors.ts";

/** What a suite tests, freshly made and empty; `close` removes every trace. */
export interface Fixture<T> {
  readonly service: T;
  close(): Promise<void>;
}

const ABSENT = parseDigest("00".repeat(32));
const LARGE = prngBytes(3_000_000);
const BLOBS: readonly (readonly [string, Buffer])[] = [
  ["the empty blob", Buffer.alloc(0)],
  ["two bytes", blobVector("BLOB_A")],
  ["1,044,480 repetitive bytes", blobVector("BLOB_B")],
  ["4 KiB", LARGE.subarray(0, 4096)],
  ["one byte over 4 KiB", LARGE.subarray(0, 4097)],
  ["3,000,000 random bytes", LARGE],
];

/** The contract of BlobService, line by line. Every implementation calls this once. */
export function describeBlobService(name: string, make: () => Promise<Fixture<BlobService>>): void {
  describe(`${name} as a BlobService`, () => {
    let fixture: Fixture<BlobService>;
    let service: BlobService;
    beforeEach(async () => {
      fixture = await make();
      service = fixture.service;
    });
    afterEach(() => fixture.close());
    describePresence(() => service);
    describePut(() => service);
    describeReader(() => service);
    describeCancellation(() => service);
  });
}

function describePresence(service: () => BlobService): void {
  test("a blob that was never put is absent, in every method", async () => {
    for (const digest of [ABSENT, digestOf(LARGE)]) {
      expect(await service().has(digest)).toBe(false);
      expect(await service().open(digest)).toBeUndefined();
      expect(await service().chunks(digest)).toBeUndefined();
    }
  });

  test.each(BLOBS)("%s can be put and read back", async (_, bytes) => {
    const digest = digestOf(bytes);
    expect(await service().put([own(bytes)])).toEqual({ digest, size: bytes.byteLength });
    expect(await service().has(digest)).toBe(true);
    expect((await readAll(service(), digest)).equals(bytes)).toBe(true);
  });

  test.each(BLOBS)("the chunks of %s are blobs that join to it", async (_, bytes) => {
    const { digest } = await service().put([own(bytes)]);
    const chunks = await service().chunks(digest);
    expect(chunks).toBeDefined();
    expect(chunks).not.toHaveLength(1);
    let offset = 0;
    for (const chunk of chunks ?? []) {
      const part = bytes.subarray(offset, offset + chunk.size);
      expect(digestOf(part)).toBe(chunk.digest);
      offset += chunk.size;
    }
    expect(offset).toBe(chunks?.length === 0 ? 0 : bytes.byteLength);
  });
}

function describePut(service: () => BlobService): void {
  test("put() joins pieces of any size, from an Iterable and an AsyncIterable", async () => {
    const digest = digestOf(LARGE);
    const pieces = [0, 0, 1, 2, 65_536, 1_500_001, LARGE.length].map((end, i, ends) =>
      LARGE.subarray(ends[i - 1] ?? 0, end),
    );
    expect(await service().put(pieces.map(own))).toEqual({ digest, size: LARGE.length });
    expect(await service().put(lazily(pieces))).toEqual({ digest, size: LARGE.length });
    expect((await readAll(service(), digest)).equals(LARGE)).toBe(true);
  });

  test.each([1000, 300_000])(
    "put() needs no piece of %i bytes any more that it released",
    async (size) => {
      const released: Uint8Array[] = [];
      const release = (piece: Uint8Array): void => {
        released.push(Buffer.from(piece));
        piece.fill(0);
      };
      const pieces = Array.from({ length: Math.ceil(LARGE.length / size) }, (_, i) =>
        LARGE.subarray(i * size, (i + 1) * size),
      );
      const put = await service().put(lazily(pieces), { release });
      expect(put).toEqual({ digest: digestOf(LARGE), size: LARGE.length });
      expect((await readAll(service(), put.digest)).equals(LARGE)).toBe(true);
      // Each as it came, from the first on.
      const bytes = Buffer.concat(released);
      expect(bytes.equals(LARGE.subarray(0, bytes.length))).toBe(true);
    },
  );

  test("put() of nothing stores the empty blob", async () => {
    expect(await service().put([])).toEqual({ digest: EMPTY_DIGEST, size: 0 });
    expect(await service().put(lazily([Buffer.alloc(0)]))).toEqual({
      digest: EMPTY_DIGEST,
      size: 0,
    });
    expect(await service().has(EMPTY_DIGEST)).toBe(true);
    expect(await readAll(service(), EMPTY_DIGEST)).toHaveLength(0);
  });

  test("put() is idempotent", async () => {
    const first = await service().put([own(LARGE)]);
    expect(await service().put([own(LARGE)])).toEqual(first);
    expect((await readAll(service(), first.digest)).equals(LARGE)).toBe(true);
  });

  test("concurrent puts of equal and of different blobs all succeed", async () => {
    const blobs = Array.from({ length: 24 }, (_, i) => LARGE.subarray(i % 8, 300_000 * (i % 8)));
    const put = await Promise.all(blobs.map((bytes) => service().put(lazily([bytes]))));
    expect(put.map(({ digest }) => digest)).toEqual(blobs.map(digestOf));
    const read = await Promise.all(put.map(({ digest }) => readAll(service(), digest)));
    expect(read.every((bytes, i) => bytes.equals(blobs[i] ?? Buffer.alloc(0)))).toBe(true);
  });

  test("putBlobs() stores blobs of any size, whose bytes may change once released", async () => {
    const sizes = [0, 1, 4096, 4097, 70_000, 300_000, LARGE.length];
    for (const round of ["new", "there already"]) {
      const blobs = [...sizes, ...sizes].map((size) => own(LARGE.subarray(0, size)));
      const wanted = blobs.map((bytes) => ({ digest: digestOf(bytes), size: bytes.byteLength }));
      const release = () => {
        for (const bytes of blobs) bytes.fill(0xff);
      };
      expect(await putBlobs(service(), blobs, { release }), round).toEqual(wanted);
      for (const { digest, size } of wanted) {
        expect((await readAll(service(), digest)).equals(LARGE.subarray(0, size))).toBe(true);
      }
    }
  });

  test("put() that expects the right digest stores the blob", async () => {
    const digest = digestOf(LARGE);
    expect(await service().put([own(LARGE)], { expect: digest })).toEqual({
      digest,
      size: LARGE.length,
    });
    expect(await service().has(digest)).toBe(true);
  });

  test.each([16, LARGE.length])("put() of a wrong digest leaves nothing (%i bytes)", async (n) => {
    const bytes = LARGE.subarray(0, n);
    const wrong = service().put([own(bytes)], { expect: ABSENT });
    await expect(wrong).rejects.toSatisfy((error) => isCastoreError(error, "CORRUPT"));
    expect(await service().has(ABSENT)).toBe(false);
    expect(await service().has(digestOf(bytes))).toBe(false);
  });

  test.each([16, LARGE.length])("a source that fails leaves nothing (%i bytes)", async (n) => {
    const bytes = LARGE.subarray(0, n);
    const failure = new Error("the source failed");
    const failing = async function* (): AsyncGenerator<Uint8Array> {
      yield own(bytes);
      throw failure;
    };
    await expect(service().put(failing())).rejects.toBe(failure);
    expect(await service().has(digestOf(bytes))).toBe(false);
    expect(await service().open(digestOf(bytes))).toBeUndefined();
  });
}

function describeReader(service: () => BlobService): void {
  const open = async (bytes: Uint8Array): Promise<BlobReader> => {
    const { digest } = await service().put([own(bytes)]);
    const reader = await service().open(digest);
    if (reader === undefined) throw new Error(`blob ${digest} is absent after put()`);
    return reader;
  };

  test("a reader knows the size and streams any range", async () => {
    await using reader = await open(LARGE);
    expect(reader.size).toBe(LARGE.length);
    const ranges: [number?, number?][] = [
      [],
      [0, 0],
      [0, 1],
      [1],
      [131_071, 131_073],
      [999_999, 2_000_001],
      [LARGE.length - 3],
      [LARGE.length - 3, LARGE.length + 100],
      [LARGE.length],
      [LARGE.length + 1, LARGE.length + 2],
      [500, 400],
    ];
    for (const [start, end] of ranges) {
      const got = await join(reader.stream(start, end));
      expect(got.equals(LARGE.subarray(start, Math.max(start ?? 0, end ?? LARGE.length)))).toBe(
        true,
      );
    }
  });

  test.each([
    [-1, 1],
    [0, -1],
    [0.5, 1],
    [Number.NaN, 1],
  ])("a range from %d to %d is misuse", async (start, end) => {
    await using reader = await open(LARGE.subarray(0, 100));
    await expect(join(reader.stream(start, end))).rejects.toBeInstanceOf(RangeError);
  });

  test("pieces are at most 1 MiB, never empty, and belong to the receiver", async () => {
    const { digest } = await service().put([own(LARGE)]);
    await using reader = await open(LARGE);
    for await (const piece of reader.stream()) {
      expect(piece.byteLength).toBeLessThanOrEqual(1 << 20);
      expect(piece.byteLength).toBeGreaterThan(0);
      piece.fill(0);
    }
    expect((await readAll(service(), digest)).equals(LARGE)).toBe(true);
  });

  test("streams of one reader do not disturb each other, nor does leaving one early", async () => {
    await using reader = await open(LARGE);
    for await (const _ of reader.stream()) break;
    const ends = [1_000_000, 2_000_000, 3_000_000];
    const parts = await Promise.all(ends.map((end) => join(reader.stream(end - 1_000_000, end))));
    expect(Buffer.concat(parts).equals(LARGE)).toBe(true);
  });

  test("a closed reader streams no more, and closing twice is allowed", async () => {
    const reader = await open(LARGE);
    await reader.close();
    await reader.close();
    const read = join(reader.stream());
    await expect(read).rejects.toSatisfy((error) => isCastoreError(error, "CLOSED"));
  });
}

function describeCancellation(service: () => BlobService): void {
  const reason = new Error("the caller went away");

  test("a signal that has already aborted ends every call with its reason", async () => {
    const { digest } = await service().put([own(LARGE)]);
    const signal = AbortSignal.abort(reason);
    await expect(service().has(digest, { signal })).rejects.toBe(reason);
    await expect(service().open(digest, { signal })).rejects.toBe(reason);
    await expect(service().chunks(digest, { signal })).rejects.toBe(reason);
    await expect(service().put([own(LARGE.subarray(1))], { signal })).rejects.toBe(reason);
    expect(await service().has(digestOf(LARGE.subarray(1)))).toBe(false);
    const reader = await service().open(digest);
    await expect(join(reader?.stream(0, 10, { signal }) ?? [])).rejects.toBe(reason);
    await reader?.close();
  });

  test("put() from a source that has gone silent ends when its signal aborts", async () => {
    const controller = new AbortController();
    const silent = async function* (): AsyncGenerator<Uint8Array> {
      yield own(LARGE);
      // Aborted only when put() has come for a piece that never will.
      queueMicrotask(() => controller.abort(reason));
      await new Promise(() => {});
    };
    await expect(service().put(silent(), { signal: controller.signal })).rejects.toBe(reason);
    expect(await service().has(digestOf(LARGE))).toBe(false);
  });

  test("a stream ends when its signal aborts in the middle", async () => {
    const { digest } = await service().put([own(LARGE)]);
    const reader = await service().open(digest);
    const controller = new AbortController();
    let pieces = 0;
    const read = async (): Promise<void> => {
      for await (const _ of reader?.stream(0, undefined, { signal: controller.signal }) ?? []) {
        pieces++;
        controller.abort(reason);
      }
    };
    await expect(read()).rejects.toBe(reason);
    expect(pieces).toBe(1);
    await reader?.close();
  });
}

async function* lazily(pieces: Iterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  for (const piece of pieces) {
    await Promise.resolve();
    yield own(piece);
  }
}

/** A copy to give away: what is put belongs to the service. */
function own(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes);
}

/** All of a stream's bytes. */
export async function join(source: ByteSource): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of source) pieces.push(piece);
  return Buffer.concat(pieces);
}

/** All bytes of a blob that must be there. */
export async function readAll(service: BlobService, digest: Digest): Promise<Buffer> {
  const reader = await service.open(digest);
  if (reader === undefined) throw new Error(`blob ${digest} is absent`);
  try {
    return await join(reader.stream());
  } finally {
    await reader.close();
  }
}
