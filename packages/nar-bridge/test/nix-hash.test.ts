import { describe, expect, it } from "vitest";
import {
  formatSriHash,
  narHashOf,
  narHashOfDigits,
  nixHashAlgorithm,
  nixHashBytes,
  nixHashDigits,
  parseNarHash,
  parseNixHash,
} from "../src/nix/nix-hash.ts";
import { vectors } from "./vectors.ts";

const { sha1_hex, forms, md5_hex, md5_forms } = vectors.nixhash_examples;

describe("parseNixHash()", () => {
  it.each(forms)("reads the sha1 in %s", (text) => {
    const hash = parseNixHash(text);
    expect(nixHashAlgorithm(hash)).toBe("sha1");
    expect(nixHashBytes(hash).toString("hex")).toBe(sha1_hex);
    expect(hash).toBe(parseNixHash(`sha1:${sha1_hex}`));
    expect(formatSriHash(hash)).toBe(forms[0]);
  });

  it.each(md5_forms)("reads the md5 in %s", (text) => {
    const hash = parseNixHash(text);
    expect(nixHashBytes(hash).toString("hex")).toBe(md5_hex);
    expect(hash).toBe(parseNixHash(`md5:${md5_hex.toUpperCase()}`));
  });

  it.each([
    "",
    "sha256",
    "sha256:",
    "sha3:00",
    "toString:00",
    `sha1-${sha1_hex}`,
    "sha1:YBZ3eZfDCrAkE89QlWIs15JCg6x=",
    "sha1:YBZ3eZfDCrAkE89QlWIs15JCg6w",
    `sha1:${sha1_hex.slice(2)}zz`,
    `sha1:${sha1_hex}00`,
    "md5:zz0xcx93rdhqykj2s4jy44m1y4",
    `sha1:${sha1_hex}\n`,
  ])("refuses %j", (text) => {
    expect(() => parseNixHash(text)).toThrowError(expect.objectContaining({ code: "INVALID" }));
  });
});

describe("NarHash", () => {
  const digits = "0c5b8vw40dy178xlpddw65q9gf1h2186jcc3p4swinwggbllv8mk";
  const hex = "b3a24de97a8fdbc835b9833169501030b8977031bcb54b3b3ac13740f846ab30";

  it("is the same value from its bytes, digits, hex and text", () => {
    const hash = parseNarHash(`sha256:${digits}`);
    expect(hash).toBe(`sha256:${digits}`);
    expect(parseNarHash(`sha256:${hex}`)).toBe(hash);
    expect(narHashOf(Buffer.from(hex, "hex"))).toBe(hash);
    expect(narHashOfDigits(digits)).toBe(hash);
    expect(nixHashDigits(hash)).toBe(digits);
  });

  it("is a sha256 and nothing else", () => {
    expect(() => parseNarHash(`sha1:${sha1_hex}`)).toThrowError(/named by its sha256/);
    expect(() => narHashOf(new Uint8Array(31))).toThrowError(/31 bytes: want 32/);
    expect(() => narHashOfDigits(digits.slice(1))).toThrowError(/./);
  });
});
