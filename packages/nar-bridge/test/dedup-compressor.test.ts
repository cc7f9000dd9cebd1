import { setTimeout } from "node:timers/promises";
import { zstdCompress } from "@castore/castore";
import { describe, expect, it } from "vitest";
import { prose } from "../../../test/support/stand-in-closure.ts";
import { COMPRESSOR_BACKLOG_BYTES, createCompressor } from "../src/dedup/dedup-compressor.ts";

describe("createCompressor()", () => {
  it("tells what zstd makes of each, whichever thread it went to", async () => {
    await using compressor = createCompressor([1, 3]);
    const parts = Array.from({ length: 20 }, (_, i) => prose(1_000 * (i + 1), String(i)));
    const expected = parts.map((part) => [1, 3].map((l) => zstdCompress(part, l).byteLength));
    const sizes: (readonly number[])[] = [];
    for (const [i, part] of parts.entries()) {
      compressor.submit(part, (each) => {
        sizes[i] = each;
      });
    }
    await compressor.settled();
    expect(sizes).toEqual(expected);
  });

  it("has room again once enough is done", async () => {
    await using compressor = createCompressor([1]);
    let done = 0;
    await compressor.room();
    for (let i = 0; i < 5; i++) {
      compressor.submit(new Uint8Array(COMPRESSOR_BACKLOG_BYTES / 4), () => {
        done++;
      });
    }
    await compressor.room();
    expect(done).toBeGreaterThanOrEqual(2);
  });

  it("a signal ends all waiting, though work is under way", async () => {
    const abort = new AbortController();
    await using compressor = createCompressor([19], abort);
    let done = 0;
    compressor.submit(prose(8 << 20, "x"), () => {
      done++;
    });
    const settled = compressor.settled();
    abort.abort(new Error("stopped"));
    await expect(settled).rejects.toThrow("stopped");
    await expect(compressor.room()).rejects.toThrow("stopped");
    expect(done).toBe(0);
  });

  it("may be closed while its threads start, however far they are", async () => {
    for (let round = 0; round < 20; round++) {
      await using compressor = createCompressor([1]);
      compressor.submit(new Uint8Array(10), () => {});
      await setTimeout(round * 10);
    }
  });
});
