import { spawnSync } from "node:child_process";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { sliceXz } from "../src/compression/xz-slices.ts";

function xz(args: readonly string[], input: Buffer): Buffer {
  const result = spawnSync("xz", ["-c", "-1", ...args], { input, maxBuffer: 1 << 28 });
  if (result.status !== 0) throw new Error(`xz: ${result.stderr} ${result.error}`);
  return result.stdout;
}

async function slicesOf(pieces: Iterable<Uint8Array>): Promise<Uint8Array[]> {
  const slices: Uint8Array[] = [];
  for await (const slice of sliceXz(pieces)) slices.push(slice);
  return slices;
}

/** Bytes that xz cannot make smaller. */
function noise(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  let state = 1;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}

const zeros = Buffer.alloc(16 << 20);

describe("sliceXz", () => {
  it("cuts where chunks become more than 1 MiB, in blocks of any kind", async () => {
    for (const args of [
      [],
      ["--block-size=4MiB", "-T1"],
      ["--check=sha256"],
      ["--x86", "--lzma2=preset=1"],
    ]) {
      const packed = xz(args, zeros);
      const slices = await slicesOf([packed]);
      expect(Buffer.concat(slices).equals(packed)).toBe(true);
      // 2 MiB is the most that a chunk becomes.
      expect(slices.length).toBeGreaterThanOrEqual(8);
      expect(slices.length).toBeLessThan(16);
    }
  });

  it("passes on what hardly grows in slices of 64 KiB", async () => {
    const packed = xz([], noise(1 << 20));
    const slices = await slicesOf([packed]);
    expect(Buffer.concat(slices).equals(packed)).toBe(true);
    expect(slices.length).toBeLessThanOrEqual(packed.length / 65_536 + 2);
  });

  it("cuts what is not understood, as a second stream, into slices of 1 KiB", async () => {
    const packed = xz([], zeros);
    const slices = await slicesOf([packed, packed]);
    expect(Buffer.concat(slices).equals(Buffer.concat([packed, packed]))).toBe(true);
    const second = slices.slice(-Math.floor(packed.length / 1024));
    for (const slice of second) expect(slice.byteLength).toBeLessThanOrEqual(1024);
  });

  it("loses and adds nothing, whatever it is given and however that is cut", async () => {
    const packed = xz(["--block-size=64KiB"], noise(200_000).fill(0, 50_000, 150_000));
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(packed.length), fc.uint8Array({ maxLength: 8 })), {
          maxLength: 4,
        }),
        fc.integer({ min: 1, max: 70_000 }),
        async (changes, size) => {
          const bytes = Buffer.from(packed);
          for (const [at, change] of changes) bytes.set(change.subarray(0, bytes.length - at), at);
          const pieces: Buffer[] = [];
          for (let at = 0; at < bytes.length; at += size)
            pieces.push(bytes.subarray(at, at + size));
          expect(Buffer.concat(await slicesOf(pieces)).equals(bytes)).toBe(true);
        },
      ),
      { numRuns: 50 },
    );
  });
});
