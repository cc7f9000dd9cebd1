import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import * as zlib from "node:zlib";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  createZstdDecoder,
  createZstdEncoder,
  type ZstdDecoderOptions,
  zstdCompress,
  zstdDecompress,
} from "../src/streams/zstd.ts";

/** Bytes that compress to about a half. */
function sample(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  let state = seed;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = 97 + ((state >>> 24) & 15);
  }
  return bytes;
}

async function gather(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of source) pieces.push(piece);
  return Buffer.concat(pieces);
}

function decode(pieces: Iterable<Uint8Array>, options?: ZstdDecoderOptions): Promise<Buffer> {
  return gather(createZstdDecoder(options)(pieces));
}

function cut(bytes: Uint8Array, size: number): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < bytes.byteLength; at += size) pieces.push(bytes.subarray(at, at + size));
  return pieces;
}

const SKIPPABLE = Buffer.from("502a4d18030000000a0b0c", "hex");
/** An empty frame that asks for a window of 256 MiB; and of 128 MiB. */
const WINDOW_TOO_LARGE = Buffer.from("28b52ffd0090010000", "hex");
const WINDOW_LARGEST = Buffer.from("28b52ffd0088010000", "hex");
/** 3 run-length blocks of 128 KiB. */
const BOMB = Buffer.from("28b52ffd0088020010410200104103001041", "hex");
const BOMB_SIZE = 3 * 131072;

const whole = sample(300_000);
const frame = Buffer.from(zstdCompress(whole));

const accepted: readonly (readonly [string, Buffer, Buffer])[] = [
  ["one frame", frame, whole],
  ["two frames", Buffer.concat([frame, frame]), Buffer.concat([whole, whole])],
  ["a frame of nothing", Buffer.from(zstdCompress(new Uint8Array(0))), Buffer.alloc(0)],
  [
    "a skippable frame between",
    Buffer.concat([frame, SKIPPABLE, frame]),
    Buffer.concat([whole, whole]),
  ],
  ["frames of unknown size", BOMB, Buffer.alloc(BOMB_SIZE, "A")],
  ["the largest window", WINDOW_LARGEST, Buffer.alloc(0)],
];

/** A compressed block of four bytes that are no block. */
const DAMAGED = Buffer.from("28b52ffd0048250000ffffffff", "hex");

const refused: readonly (readonly [string, Buffer])[] = [
  ["empty input", Buffer.alloc(0)],
  ["a frame without its last byte", frame.subarray(0, -1)],
  ["half a frame", frame.subarray(0, frame.byteLength >> 1)],
  ["a frame's header alone", frame.subarray(0, 7)],
  ["a second frame cut short", Buffer.concat([frame, frame.subarray(0, -1)])],
  ["three bytes of a magic number at the end", Buffer.concat([frame, frame.subarray(0, 3)])],
  ["bytes after the frame", Buffer.concat([frame, Buffer.from("trailing")])],
  ["other bytes", Buffer.from("not zstd at all")],
  ["damaged contents", DAMAGED],
];

describe("zstdDecompress", () => {
  it.each(accepted)("takes %s", (_name, bytes, contents) => {
    expect(contents.equals(zstdDecompress(bytes, contents.byteLength))).toBe(true);
  });

  it.each(refused)("rejects %s as CORRUPT", (_name, bytes) => {
    expect(() => zstdDecompress(bytes, 1 << 20)).toThrow(
      expect.objectContaining({ code: "CORRUPT" }),
    );
  });

  it("rejects contents above the limit and windows above 128 MiB as EXHAUSTED", () => {
    const exhausted = expect.objectContaining({ code: "EXHAUSTED" });
    expect(() => zstdDecompress(frame, whole.byteLength - 1)).toThrow(exhausted);
    expect(() => zstdDecompress(BOMB, BOMB_SIZE - 1)).toThrow(exhausted);
    expect(() => zstdDecompress(Buffer.concat([BOMB, BOMB]), BOMB_SIZE)).toThrow(exhausted);
    expect(() => zstdDecompress(WINDOW_TOO_LARGE, 0)).toThrow(exhausted);
  });

  it("is the inverse of zstdCompress at every level", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 3000 }),
        fc.integer({ min: 1, max: 19 }),
        (bytes, level) => {
          const again = zstdDecompress(zstdCompress(bytes, level), bytes.byteLength);
          expect(Buffer.compare(again, bytes)).toBe(0);
        },
      ),
      { numRuns: 50 },
    );
  });
});

describe("createZstdDecoder", () => {
  it.each(accepted)("takes %s, however the input is cut", async (_name, bytes, contents) => {
    for (const size of [1 << 20, 1000, 17]) {
      expect(contents.equals(await decode(cut(bytes, size)))).toBe(true);
    }
  });

  it.each(refused)("rejects %s as CORRUPT, however the input is cut", async (_name, bytes) => {
    for (const size of [1 << 20, 1000, 17]) {
      await expect(decode(cut(bytes, size))).rejects.toMatchObject({ code: "CORRUPT" });
    }
  });

  it("rejects contents above the limit and windows above 128 MiB as EXHAUSTED", async () => {
    const exhausted = { code: "EXHAUSTED" };
    await expect(decode([BOMB], { sizeMax: BOMB_SIZE - 1 })).rejects.toMatchObject(exhausted);
    await expect(decode([WINDOW_TOO_LARGE])).rejects.toMatchObject(exhausted);
    expect((await decode([BOMB], { sizeMax: BOMB_SIZE })).byteLength).toBe(BOMB_SIZE);
  });

  it("hands on the source's own error", async () => {
    const error = new Error("the network is gone");
    async function* failing() {
      yield frame.subarray(0, 1000);
      throw error;
    }
    await expect(gather(createZstdDecoder()(failing()))).rejects.toBe(error);
  });

  it("reads no further than the consumer asks, and ends the source when it stops", async () => {
    let pieces = 0;
    let ended = false;
    async function* endless() {
      try {
        for (;;) {
          pieces++;
          yield frame;
        }
      } finally {
        ended = true;
      }
    }
    for await (const piece of createZstdDecoder()(endless())) {
      expect(piece.byteLength).toBeGreaterThan(0);
      break;
    }
    while (!ended) await new Promise((resolve) => setImmediate(resolve));
    expect(pieces).toBeLessThan(10);
  });
});

describe("createZstdEncoder", () => {
  it("compresses a stream to what the decoder reads", async () => {
    const large = sample(2_000_000, 7);
    for (const size of [4_000_000, 65_536, 999]) {
      const packed = await gather(createZstdEncoder({ level: 1 })(cut(large, size)));
      expect(packed.byteLength).toBeLessThan(large.byteLength * 0.7);
      expect(large.equals(await decode([packed]))).toBe(true);
      expect(large.equals(zstdDecompress(packed, large.byteLength))).toBe(true);
    }
  });

  it("makes an empty frame of an empty stream", async () => {
    const packed = await gather(createZstdEncoder()([]));
    expect(zstdDecompress(packed, 0).byteLength).toBe(0);
  });
});

const needsNapi = !("zstdCompressSync" in zlib);
if (needsNapi)
  describe("without node:zlib's zstd", () => {
    it("names what to install where zstd-napi is missing", () => {
      const lonely = mkdtempSync(join(tmpdir(), "castore-zstd-"));
      try {
        const dist = fileURLToPath(new URL("../dist/", import.meta.url));
        for (const name of ["streams", "castore-error.js"]) {
          cpSync(join(dist, name), join(lonely, name), { recursive: true });
        }
        const zstd = JSON.stringify(join(lonely, "streams/zstd.js"));
        const program = `import { zstdCompress } from ${zstd};
        try { zstdCompress(new Uint8Array(1)) } catch (e) { console.log(e.code, e.message) }`;
        const output = execFileSync(process.execPath, ["--input-type=module", "-e", program], {
          cwd: lonely,
        });
        expect(output.toString()).toMatch(/^UNSUPPORTED .*Node 22\.15.*zstd-napi/);
      } finally {
        rmSync(lonely, { recursive: true });
      }
    });
  });
