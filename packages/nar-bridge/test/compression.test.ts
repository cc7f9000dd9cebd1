import { spawnSync } from "node:child_process";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, it } from "vitest";
import {
  COMPRESSIONS,
  type Compression,
  compress,
  decompress,
  parseCompression,
} from "../src/compression/compression.ts";

/** Bytes that compress to about a half, with runs of all lengths among them. */
function sample(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  let state = 12345;
  let at = 0;
  while (at < length) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const run = Math.min(state % 7 === 0 ? (state >>> 8) % 600 : 1, length - at);
    bytes.fill(97 + ((state >>> 24) & 15), at, at + run);
    at += run;
  }
  return bytes;
}

setFlagsFromString("--expose-gc");
const collectGarbage: () => void = runInNewContext("gc");

/** The output of a command that is part of every Debian. */
function tool(command: string, args: readonly string[], input: Buffer): Buffer {
  const result = spawnSync(command, args, { input, maxBuffer: 1 << 28 });
  if (result.status !== 0) throw new Error(`${command}: ${result.stderr} ${result.error}`);
  return result.stdout;
}

async function gather(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of source) pieces.push(piece);
  return Buffer.concat(pieces);
}

function cut(bytes: Uint8Array, size: number): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < bytes.byteLength; at += size) pieces.push(bytes.subarray(at, at + size));
  return pieces;
}

/** `contents`, packed by the format's own tool where we do not write the format. */
async function pack(compression: Compression, contents: Buffer): Promise<Buffer> {
  if (compression === "bzip2") return tool("bzip2", ["-c", "-1"], contents);
  return gather(compress(compression, [contents], { level: 1 }));
}

const contents = sample(400_000);
const small = Buffer.from("hello world\n");
const real = COMPRESSIONS.filter((compression) => compression !== "none");

describe.each(real)("decompress %s", (compression) => {
  it("gives back the contents, however the input is cut", async () => {
    const packed = await pack(compression, contents);
    expect(packed.byteLength).toBeLessThan(contents.byteLength);
    for (const size of [1 << 22, 65_536, 1000, 1]) {
      const cutContents = size === 1 ? small : contents;
      const cutPacked = size === 1 ? await pack(compression, small) : packed;
      const got = await gather(decompress(compression, cut(cutPacked, size)));
      expect(got.equals(cutContents)).toBe(true);
    }
  });

  it("takes a file of nothing", async () => {
    const packed = await pack(compression, Buffer.alloc(0));
    expect((await gather(decompress(compression, [packed], { size: 0 }))).byteLength).toBe(0);
  });

  it("rejects empty input as CORRUPT", async () => {
    for (const input of [[], [Buffer.alloc(0)]]) {
      const output = gather(decompress(compression, input));
      await expect(output).rejects.toMatchObject({ code: "CORRUPT" });
    }
  });

  it("rejects input cut short at any byte as CORRUPT", async () => {
    const packed = await pack(compression, small);
    for (let length = 0; length < packed.byteLength; length++) {
      const output = gather(decompress(compression, [packed.subarray(0, length)]));
      await expect(output, `cut to ${length}`).rejects.toMatchObject({ code: "CORRUPT" });
    }
    const large = await pack(compression, contents);
    for (const length of [large.byteLength >> 1, large.byteLength - 1]) {
      const output = gather(decompress(compression, cut(large.subarray(0, length), 65_536)));
      await expect(output, `cut to ${length}`).rejects.toMatchObject({ code: "CORRUPT" });
    }
  });

  it("rejects input that goes on after its end as CORRUPT", async () => {
    const packed = await pack(compression, small);
    for (const tail of ["trailing", "\0trailing", "BZ"]) {
      const bytes = Buffer.concat([packed, Buffer.from(tail)]);
      for (const size of [bytes.byteLength, packed.byteLength, 3]) {
        const output = gather(decompress(compression, cut(bytes, size)));
        await expect(output, tail).rejects.toMatchObject({ code: "CORRUPT" });
      }
    }
  });

  it("rejects other input as CORRUPT", async () => {
    const output = gather(decompress(compression, [Buffer.from("nix-archive-1, and so on")]));
    await expect(output).rejects.toMatchObject({ code: "CORRUPT" });
  });

  it("ends with the signal's reason while the source is silent", async () => {
    const packed = await pack(compression, contents);
    const abort = new AbortController();
    const reason = new Error("the client went away");
    async function* silent() {
      yield packed.subarray(0, 1000);
      setImmediate(() => abort.abort(reason));
      await new Promise(() => undefined);
    }
    const output = gather(decompress(compression, silent(), { signal: abort.signal }));
    await expect(output).rejects.toBe(reason);
  });

  it("hands on the source's own error", async () => {
    const packed = await pack(compression, contents);
    const error = new Error("the network is gone");
    async function* failing() {
      yield packed.subarray(0, 1000);
      throw error;
    }
    await expect(gather(decompress(compression, failing()))).rejects.toBe(error);
  });

  it("reads no further than the consumer asks, and ends the source when it stops", async () => {
    const packed = await pack(compression, sample(16_000_000));
    let given = 0;
    let ended = false;
    async function* counted() {
      try {
        for (const piece of cut(packed, 10_000)) {
          given += piece.byteLength;
          yield piece;
        }
      } finally {
        ended = true;
      }
    }
    for await (const piece of decompress(compression, counted())) {
      expect(piece.byteLength).toBeGreaterThan(0);
      break;
    }
    while (!ended) await new Promise((resolve) => setImmediate(resolve));
    if (compression !== "bzip2") expect(given).toBeLessThan(packed.byteLength / 2);
  });
});

describe.each(["xz", "zstd", "gzip", "bzip2"] as const)("decompress %s", (compression) => {
  it("takes several streams in one file, cut anywhere", async () => {
    const first = await pack(compression, small);
    const both = Buffer.concat([first, await pack(compression, Buffer.from("and again"))]);
    for (let at = 0; at <= both.byteLength; at++) {
      const pieces = [both.subarray(0, at), both.subarray(at)];
      const got = await gather(decompress(compression, pieces));
      expect(got.toString()).toBe("hello world\nand again");
    }
  });
});

describe("decompress", () => {
  it("passes none through, and counts it", async () => {
    expect(await gather(decompress("none", [small], { size: 12, sizeMax: 12 }))).toEqual(small);
    expect((await gather(decompress("none", []))).byteLength).toBe(0);
  });

  it("rejects another size than the one named as CORRUPT", async () => {
    for (const compression of COMPRESSIONS) {
      const packed = await pack(compression, small);
      for (const size of [0, 11, 13]) {
        const output = gather(decompress(compression, [packed], { size }));
        await expect(output).rejects.toMatchObject({ code: "CORRUPT" });
      }
    }
  });

  it("rejects more than the limit as EXHAUSTED before it is all decoded", async () => {
    for (const compression of COMPRESSIONS) {
      const packed = await pack(compression, Buffer.alloc(5_000_000));
      let size = 0;
      await expect(async () => {
        const options = { sizeMax: 1_000_000 };
        for await (const piece of decompress(compression, cut(packed, 4096), options)) {
          size += piece.byteLength;
        }
      }).rejects.toMatchObject({ code: "EXHAUSTED" });
      expect(size).toBeLessThanOrEqual(1_000_000);
    }
  });

  it("rejects an xz window above 128 MiB as EXHAUSTED, and takes one of 128 MiB", async () => {
    const large = tool("xz", ["-c", "--lzma2=dict=129MiB"], small);
    await expect(gather(decompress("xz", [large]))).rejects.toMatchObject({ code: "EXHAUSTED" });
    const largest = tool("xz", ["-c", "--lzma2=dict=128MiB"], small);
    expect(await gather(decompress("xz", [largest]))).toEqual(small);
  });

  it("takes xz with a filter for x86 code, with blocks and with padding", async () => {
    const filtered = tool("xz", ["-c", "--x86", "--lzma2"], contents);
    const blocks = tool("xz", ["-c", "--block-size=65536", "--check=sha256"], contents);
    for (const packed of [filtered, blocks, Buffer.concat([filtered, Buffer.alloc(8)])]) {
      expect((await gather(decompress("xz", [packed]))).equals(contents)).toBe(true);
    }
  });

  it("rejects a flipped bit in bzip2, xz and gzip as CORRUPT", async () => {
    for (const compression of ["bzip2", "xz", "gzip"] as const) {
      const packed = await pack(compression, contents);
      for (let at = 60; at < packed.byteLength; at += packed.byteLength >> 4) {
        const flipped = Buffer.from(packed);
        flipped[at] = (flipped[at] ?? 0) ^ 16;
        const output = gather(decompress(compression, [flipped]));
        await expect(output, `${compression} at ${at}`).rejects.toMatchObject({ code: "CORRUPT" });
      }
    }
  });

  it("holds no more than a few MiB of what a file of zeros becomes", async () => {
    for (const compression of real) {
      const packed = await pack(compression, Buffer.alloc(40_000_000));
      collectGarbage();
      const before = process.memoryUsage().arrayBuffers;
      let most = 0;
      let size = 0;
      for await (const piece of decompress(compression, [packed])) {
        size += piece.byteLength;
        if (size % 4_000_000 >= piece.byteLength) continue;
        collectGarbage();
        most = Math.max(most, process.memoryUsage().arrayBuffers - before);
      }
      expect(size).toBe(40_000_000);
      expect(most, compression).toBeLessThan(15_000_000);
    }
  });

  it("decodes bzip2 of long runs and of several blocks", async () => {
    for (const made of [Buffer.alloc(5_000_000), Buffer.alloc(300, 7), sample(2_500_000)]) {
      for (const level of ["-1", "-9"]) {
        const packed = tool("bzip2", ["-c", level], made);
        const got = await gather(decompress("bzip2", cut(packed, 100_000)));
        expect(got.equals(made)).toBe(true);
      }
    }
  });
});

describe("compress", () => {
  it("is read by the formats' own tools", async () => {
    for (const [compression, command] of [
      ["xz", "xz"],
      ["gzip", "gzip"],
    ] as const) {
      const packed = await gather(compress(compression, cut(contents, 70_000), { level: 1 }));
      expect(tool(command, ["-dc"], packed).equals(contents)).toBe(true);
    }
  });

  it("does not write bzip2", () => {
    expect(() => compress("bzip2", [])).toThrow(expect.objectContaining({ code: "UNSUPPORTED" }));
  });
});

describe("parseCompression", () => {
  it("knows the six names and nothing else", () => {
    expect(COMPRESSIONS.map(parseCompression)).toEqual([...COMPRESSIONS]);
    for (const text of ["", "lz4", "XZ", "br "]) expect(parseCompression(text)).toBeUndefined();
  });
});
