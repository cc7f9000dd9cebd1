import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { describe, expect, it } from "vitest";
import { decodeWithLzmaNative, decodeXz } from "../src/compression/xz.ts";

const contents = Buffer.concat([randomBytes(200_000), Buffer.alloc(3_000_000, "ab")]);
const xz = (...args: string[]) =>
  execFileSync("xz", ["-c", ...args], { input: contents, maxBuffer: 1 << 26 });

async function gather(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of source) pieces.push(piece);
  return Buffer.concat(pieces);
}

async function* cut(bytes: Buffer, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += size) yield bytes.subarray(at, at + size);
}

/** node-liblzma where it has a binary, lzma-native elsewhere: one answer to everything. */
describe.each([
  ["the decoder of this machine", decodeXz],
  ["lzma-native", decodeWithLzmaNative],
])("%s", (_, decode) => {
  it("decodes streams of several blocks, with padding between them, however cut", async () => {
    const one = xz("-1", "--block-size=1000000", "--check=sha256");
    const file = Buffer.concat([one, Buffer.alloc(8), xz("-1", "--check=none"), one]);
    const expected = Buffer.concat([contents, contents, contents]);
    for (const size of [1 << 20, 997]) {
      expect((await gather(decode(cut(file, size)))).equals(expected)).toBe(true);
    }
  });

  it("rejects a window above 128 MiB in a later block of a later stream", async () => {
    const file = Buffer.concat([xz("-1"), xz("--block-size=1000000", "--lzma2=dict=192MiB")]);
    await expect(gather(decode(cut(file, 65_536)))).rejects.toMatchObject({ code: "EXHAUSTED" });
  });

  it("rejects a file that ends anywhere but at its end", async () => {
    const file = xz("-1", "--block-size=1000000");
    for (const end of [6, 12, 40, 1000, file.byteLength - 13, file.byteLength - 1]) {
      const packed = cut(file.subarray(0, end), 65_536);
      await expect(gather(decode(packed)), String(end)).rejects.toMatchObject({ code: "CORRUPT" });
    }
  });
});

it("stopping early, many at once, leaves nothing behind that fails", async () => {
  const file = xz("-1");
  const stopped = Array.from({ length: 40 }, async (_, index) => {
    const decoding = decodeXz(cut(file, 4_096 + index));
    let left = index % 5;
    for await (const _piece of decoding) if (left-- === 0) break;
  });
  await Promise.all(stopped);
  expect((await gather(decodeXz(cut(file, 65_536)))).equals(contents)).toBe(true);
});
