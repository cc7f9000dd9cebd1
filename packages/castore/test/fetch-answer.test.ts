import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { FUZZ_RUNS, mutated } from "../../../test/support/mutated-bytes.ts";
import { CastoreError, isCastoreError } from "../src/castore-error.ts";
import {
  decodeFetchAnswer,
  encodeFetchAnswer,
  FETCH_FRAME_BYTES_MAX,
  type FetchFrame,
  fetchFrameContents,
} from "../src/fetching/fetch-answer.ts";
import { zstdCompress } from "../src/streams/zstd.ts";
import { join } from "./blob-service-suite.ts";
import { prngBytes } from "./vectors.ts";

/** Frames as a server may send them: each item in order, to its end. */
const frames: fc.Arbitrary<FetchFrame[]> = fc
  .array(
    fc.record({
      more: fc.array(fc.uint8Array({ minLength: 1 }), { maxLength: 2 }),
      status: fc.constantFrom("done", "done", "missing", "failed", "leftOut"),
      bytes: fc.uint8Array(),
      encoding: fc.constantFrom("none", "zstd"),
    }),
    { maxLength: 8 },
  )
  .map((items) =>
    items.flatMap(({ more, status, bytes, encoding }, index): FetchFrame[] => [
      ...more.map((part): FetchFrame => ({ index, status: "more", encoding, bytes: part })),
      status === "done"
        ? { index, status, encoding, bytes }
        : { index, status, encoding: "none", bytes: new Uint8Array(0) },
    ]),
  );

const itemsOf = (list: readonly FetchFrame[]): number => (list.at(-1)?.index ?? -1) + 1;

async function decode(bytes: Uint8Array, items: number, pieceBytes = 1 << 30) {
  const pieces = [];
  for (let at = 0; at < bytes.length; at += pieceBytes) {
    pieces.push(bytes.subarray(at, at + pieceBytes));
  }
  const decoded: FetchFrame[] = [];
  for await (const frame of decodeFetchAnswer(pieces, items)) {
    decoded.push({ ...frame, bytes: new Uint8Array(frame.bytes) });
  }
  return decoded;
}

test("answers survive encoding, whatever the pieces", async () => {
  await fc.assert(
    fc.asyncProperty(frames, fc.integer({ min: 1, max: 50 }), async (list, pieceBytes) => {
      const bytes = await join(encodeFetchAnswer(list));
      expect(await decode(bytes, itemsOf(list), pieceBytes)).toEqual(list);
    }),
    { numRuns: FUZZ_RUNS },
  );
});

test("an answer with any fault is refused, cut short anywhere as INCOMPLETE", async () => {
  const valid = frames.chain((list) => fc.constant({ list, items: itemsOf(list) }));
  await fc.assert(
    fc.asyncProperty(valid, fc.infiniteStream(fc.nat()), async ({ list, items }, numbers) => {
      const bytes = await join(encodeFetchAnswer(list));
      const cut = Number(numbers.next().value) % bytes.length;
      const short = decode(bytes.subarray(0, cut), items);
      await expect(short).rejects.toSatisfy((error) => isCastoreError(error, "INCOMPLETE"));
    }),
    { numRuns: FUZZ_RUNS },
  );
  const encoded: Buffer[] = [];
  for (const list of fc.sample(frames, 20)) encoded.push(await join(encodeFetchAnswer(list)));
  await fc.assert(
    fc.asyncProperty(mutated(fc.constantFrom(...encoded)), fc.nat({ max: 8 }), async (bytes, n) => {
      try {
        const list = await decode(bytes, n);
        expect((await join(encodeFetchAnswer(list))).equals(bytes)).toBe(true);
      } catch (error) {
        if (!(error instanceof CastoreError)) throw error;
        expect(["INVALID", "CORRUPT", "INCOMPLETE"]).toContain(error.code);
      }
    }),
    { numRuns: 2 * FUZZ_RUNS },
  );
});

test("frames come out as soon as they are whole, before the answer has ended", async () => {
  const list: FetchFrame[] = [0, 1].map((index) => ({
    index,
    status: "done",
    encoding: "none",
    bytes: prngBytes(20_000),
  }));
  const pieces: Uint8Array[] = [];
  for await (const piece of encodeFetchAnswer(list)) pieces.push(piece);
  const stalled = async function* () {
    yield* pieces.slice(0, 2);
    await new Promise(() => {});
  };
  const { value } = await decodeFetchAnswer(stalled(), 2).next();
  expect(value).toMatchObject({ index: 0, status: "done" });
});

describe("what a server may not send is refused at its header", () => {
  const frame = (header: string, bytes = ""): Buffer => Buffer.from(header + bytes, "hex");
  test.each([
    ["an item that was not asked for", frame("00000002_00_00_00000000".replaceAll("_", ""))],
    ["an item out of order", frame("00000001000000000000")],
    ["an unknown status", frame("00000000050000000000")],
    ["an unknown encoding", frame("00000000000200000000")],
    ["bytes of a missing item", frame("00000000020000000001", "00")],
    ["an empty frame that is not the last", frame("00000000010000000000")],
    ["a frame of 1 MiB and a byte", frame("00000000000000100001")],
    ["a compressed frame of 4 GiB", frame("000000000001ffffffff")],
    ["an end before all items", frame("00000000ff0000000020")],
    ["an end of another length", frame("00000002ff0000000021")],
  ])("%s", async (_, bytes) => {
    const decoding = decode(bytes, 2);
    await expect(decoding).rejects.toSatisfy((error) => isCastoreError(error, "INVALID"));
  });

  test("bytes after the end", async () => {
    const bytes = await join(encodeFetchAnswer([]));
    const decoding = decode(Buffer.concat([bytes, Buffer.of(0)]), 0);
    await expect(decoding).rejects.toSatisfy((error) => isCastoreError(error, "INVALID"));
  });

  test("a flipped bit in the contents", async () => {
    const bytes = await join(
      encodeFetchAnswer([{ index: 0, status: "done", encoding: "none", bytes: Buffer.of(1, 2) }]),
    );
    bytes[11] = 3;
    const decoding = decode(bytes, 1);
    await expect(decoding).rejects.toSatisfy((error) => isCastoreError(error, "CORRUPT"));
  });
});

test("a frame's contents are decompressed within a frame's limit", () => {
  const frame = (bytes: Uint8Array, encoding: "none" | "zstd"): FetchFrame => ({
    index: 0,
    status: "done",
    encoding,
    bytes,
  });
  const contents = prngBytes(FETCH_FRAME_BYTES_MAX);
  expect(Buffer.from(fetchFrameContents(frame(contents, "none"))).equals(contents)).toBe(true);
  const packed = frame(zstdCompress(contents), "zstd");
  expect(Buffer.from(fetchFrameContents(packed)).equals(contents)).toBe(true);
  const bomb = frame(zstdCompress(Buffer.alloc(FETCH_FRAME_BYTES_MAX + 1)), "zstd");
  const error = expect.toSatisfy((e) => isCastoreError(e, "EXHAUSTED"));
  expect(() => fetchFrameContents(bomb)).toThrow(error);
});
