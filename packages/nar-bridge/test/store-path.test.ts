import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  formatStorePath,
  NIX_STORE_DIR,
  parseAbsoluteStorePath,
  parseStoreDir,
  parseStoreHash,
  parseStoreLocation,
  parseStorePath,
  type StoreDir,
  storeHashBytes,
  storeHashOf,
  storePathFault,
  storePathHash,
  storePathName,
  storePathOf,
} from "../src/nix/store-path.ts";
import { vectors } from "./vectors.ts";

const { ok, bad, sorted_order, from_absolute_path_full } = vectors.store_paths;
const INVALID = expect.objectContaining({ code: "INVALID" });

describe("parseStorePath()", () => {
  it.each(ok)("takes $s", ({ s, digest, name }) => {
    const path = parseStorePath(s);
    if (name !== undefined) expect(storePathName(path)).toBe(name);
    const bytes = storeHashBytes(storePathHash(path));
    if (digest !== undefined) expect(bytes.toString("hex")).toBe(digest);
    expect(storePathOf(bytes, storePathName(path))).toBe(path);
  });

  it.each(bad)("refuses %s: %s", (text, fault) => {
    expect(() => parseStorePath(text)).toThrowError(INVALID);
    if (fault !== "err") expect(storePathFault(text)).toBe(fault);
  });

  it("takes each character of a name's alphabet, up to 211 of them", () => {
    const hash = "0".repeat(32);
    const allowed = "+-._?=0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    for (let code = 0; code < 256; code++) {
      const character = String.fromCharCode(code);
      const fault = storePathFault(`${hash}-${character}`);
      expect(fault).toBe(allowed.includes(character) ? undefined : "InvalidName");
    }
    expect(storePathFault(`${hash}-${"x".repeat(211)}`)).toBeUndefined();
    expect(storePathFault(`${hash}-${"x".repeat(212)}`)).toBe("InvalidName");
    expect(storePathFault(`${hash}-x\n`)).toBe("InvalidName");
  });

  it("sorts as snix sorts", () => {
    const paths = sorted_order.map((path) => parseAbsoluteStorePath(path));
    expect([...paths].reverse().sort()).toEqual(paths);
  });

  it("fails only with INVALID, whatever it reads", () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 250 }), (text) => {
        expect(storePathFault(text)).not.toBeUndefined();
      }),
    );
  });
});

describe("parseStoreLocation()", () => {
  it.each(from_absolute_path_full)("splits %s into the store path and %j", (path, expected) => {
    if (expected.startsWith("err ")) {
      expect(() => parseStoreLocation(path)).toThrowError(expected.slice(4));
      return;
    }
    const { storePath, subPath } = parseStoreLocation(path);
    expect(subPath).toBe(expected);
    expect(path.startsWith(formatStorePath(storePath, NIX_STORE_DIR))).toBe(true);
  });

  it("reads paths of another store only under its own directory", () => {
    const dir = parseStoreDir("/srv/nix store");
    const path = `${dir}/00bgd045z0d4icpbc2yyz4gx48ak44la-a`;
    expect(parseStoreLocation(`${path}/b`, dir).subPath).toBe("b");
    expect(parseAbsoluteStorePath(path, dir)).toBe("00bgd045z0d4icpbc2yyz4gx48ak44la-a");
    expect(() => parseAbsoluteStorePath(`${path}/b`, dir)).toThrowError(INVALID);
    expect(() => parseAbsoluteStorePath(path)).toThrowError(/MissingStoreDir/);
  });
});

it.each(["", "/", "nix/store", "/nix/store/", "/nix//store", "/nix/../store", "/nix/./s", "/a\nb"])(
  "parseStoreDir() refuses %j",
  (text) => {
    expect(() => parseStoreDir(text)).toThrowError(INVALID);
  },
);

it("parseStoreDir() takes an absolute path", () => {
  const dir: StoreDir = parseStoreDir("/nix/store");
  expect(dir).toBe(NIX_STORE_DIR);
});

it("a store hash is 32 nixbase32 digits or 20 bytes", () => {
  const hash = parseStoreHash("00bgd045z0d4icpbc2yyz4gx48ak44la");
  expect(storeHashOf(storeHashBytes(hash))).toBe(hash);
  for (const text of ["", "00bgd045z0d4icpbc2yyz4gx48ak44l", "00bgd045z0d4icpbc2yyz4gx48ak44lu"]) {
    expect(() => parseStoreHash(text)).toThrowError(INVALID);
  }
  expect(() => storeHashOf(new Uint8Array(19))).toThrowError(INVALID);
});
