import { parseEntryText } from "@castore/castore";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  formatBridgedNarUrl,
  formatSnixNarUrl,
  parseBridgedNarUrl,
  parseNarFile,
  parseSnixNarUrl,
  parseStoreHashFile,
} from "../src/nix/cache-url.ts";
import { narHashOf, nixHashBytes } from "../src/nix/nix-hash.ts";
import { parseStoreHash, storeHashBytes } from "../src/nix/store-path.ts";
import { vectors } from "./vectors.ts";

it.each(vectors.nar_str)("parseNarFile(%j) is %j", (text, expected) => {
  const file = parseNarFile(text);
  if (expected === null) expect(file).toBeUndefined();
  else {
    expect(file?.suffix).toBe(expected.suffix);
    expect(file && nixHashBytes(file.narHash).toString("hex")).toBe(expected.digest);
  }
});

it.each(vectors.outhash_str)("parseStoreHashFile(%j) is %j", (text, expected) => {
  const file = parseStoreHashFile(text);
  if (expected === null) expect(file).toBeUndefined();
  else {
    expect(file?.type).toBe(expected.type);
    expect(file && storeHashBytes(file.storeHash).toString("hex")).toBe(expected.digest);
  }
});

describe("the URL of a bridged NAR", () => {
  const storeHash = parseStoreHash("00bgd045z0d4icpbc2yyz4gx48ak44la");
  const narHash = narHashOf(new Uint8Array(32).fill(7));

  it("names store hash and NarHash, and gives them back", () => {
    const url = formatBridgedNarUrl({ storeHash, narHash });
    expect(url).toMatch(/^nar\/00bgd045z0d4icpbc2yyz4gx48ak44la-[0-9a-z]{52}\.nar$/);
    expect(parseBridgedNarUrl(url)).toEqual({ storeHash, narHash });
  });

  it.each(["/", "x", ".xz", "?a=b", "\n"])("is nothing else with %j after it", (rest) => {
    expect(parseBridgedNarUrl(formatBridgedNarUrl({ storeHash, narHash }) + rest)).toBeUndefined();
  });
});

describe("the URL of a NAR of snix's", () => {
  const line = /^URL: (.*)$/m.exec(vectors.nar_bridge.get_narinfo_PATH_INFO_SYMLINK ?? "");
  const url = line?.[1] ?? "";

  it("is the one that snix writes", () => {
    const node = parseEntryText("GhoSGC9uaXgvc3RvcmUvc29tZXdoZXJlZWxzZQ");
    expect(parseSnixNarUrl(url)).toEqual({ node, narSize: 136 });
    expect(formatSnixNarUrl({ node, narSize: 136 })).toBe(url);
  });

  it.each(["", "x", "&a=b", "0".repeat(16)])("is nothing else with %j after it", (rest) => {
    if (rest === "") expect(parseSnixNarUrl(url.replace(/\?.*/, ""))).toBeUndefined();
    else expect(parseSnixNarUrl(url + rest)).toBeUndefined();
  });

  it("parses to undefined, whatever stands there", () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        expect(parseSnixNarUrl(`nar/snix-castore/${text}?narsize=1`)).toBeUndefined();
        expect(parseBridgedNarUrl(text)).toBeUndefined();
        expect(parseNarFile(text)).toBeUndefined();
      }),
    );
  });
});
