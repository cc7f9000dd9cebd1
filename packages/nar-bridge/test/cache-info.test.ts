import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  CACHE_INFO_LENGTH_MAX,
  formatCacheInfo,
  parseCacheInfo,
  parseUpgrade,
} from "../src/nix/cache-info.ts";
import { NIX_STORE_DIR } from "../src/nix/store-path.ts";
import { vectors } from "./vectors.ts";

describe("parseCacheInfo()", () => {
  it("reads what snix sends and writes it again", () => {
    const text = vectors.nar_bridge.nix_cache_info_default ?? "";
    const info = parseCacheInfo(text);
    expect(info).toEqual({
      storeDir: NIX_STORE_DIR,
      wantMassQuery: true,
      priority: 39,
      upgrades: [],
    });
    expect(formatCacheInfo(info)).toBe(text);
  });

  it("reads Upgrade lines in order and leaves out what is none", () => {
    const info = parseCacheInfo(
      "Upgrade: castore/2 v2\nUpgrade: castore/1 https://x/c\nUpgrade: castore/1\nUpgrade:\n",
    );
    expect(info.upgrades).toEqual([
      { protocol: "castore/2", url: "v2" },
      { protocol: "castore/1", url: "https://x/c" },
    ]);
    expect(formatCacheInfo(info)).toBe(
      "WantMassQuery: 0\nUpgrade: castore/2 v2\nUpgrade: castore/1 https://x/c\n",
    );
  });

  it("is as lenient as Nix: CRLF, junk, unknown keys, no last line end, the last of two", () => {
    const text =
      "junk\r\n\r\nStoreDir:/nix/store\r\nGetNarInfosV1: /p\r\nPriority: 1\nPriority: 20";
    expect(parseCacheInfo(text)).toEqual({
      storeDir: NIX_STORE_DIR,
      wantMassQuery: false,
      priority: 20,
      upgrades: [],
    });
    expect(parseCacheInfo("")).toEqual({
      storeDir: undefined,
      wantMassQuery: false,
      priority: undefined,
      upgrades: [],
    });
  });

  it.each([
    ["Priority: abc\n", /Priority: "abc" is no number/],
    ["Priority: \n", /Priority/],
    ["StoreDir: /nix/store/\n", /store directory "\/nix\/store\/"/],
  ])("refuses %j", (text, message) => {
    expect(() => parseCacheInfo(text)).toThrowError(
      expect.objectContaining({ code: "INVALID", message: expect.stringMatching(message) }),
    );
  });

  it("refuses a text over the limit", () => {
    expect(parseCacheInfo("x".repeat(CACHE_INFO_LENGTH_MAX)).upgrades).toEqual([]);
    expect(() => parseCacheInfo("x".repeat(CACHE_INFO_LENGTH_MAX + 1))).toThrowError(
      expect.objectContaining({ code: "EXHAUSTED" }),
    );
  });

  it("gives back every upgrade that it writes", () => {
    const word = fc.stringMatching(/^[!-~]{1,20}$/);
    const upgrade = fc.record({ protocol: word, url: word });
    fc.assert(
      fc.property(fc.array(upgrade), (upgrades) => {
        const info = { storeDir: NIX_STORE_DIR, wantMassQuery: true, priority: 30, upgrades };
        expect(parseCacheInfo(formatCacheInfo(info))).toEqual(info);
      }),
    );
  });
});

it("parseUpgrade() reads the value of a header", () => {
  expect(parseUpgrade("castore/1 castore")).toEqual({ protocol: "castore/1", url: "castore" });
  for (const value of ["", "castore/1", "a b c", "a \u00e9"]) {
    expect(parseUpgrade(value)).toBeUndefined();
  }
});
