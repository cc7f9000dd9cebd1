import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import {
  contentAddressedPath,
  formatContentAddress,
  isContentAddressed,
  parseContentAddress,
} from "../src/nix/content-address.ts";
import { parseNarInfo } from "../src/nix/nar-info-text.ts";
import { nixHashAlgorithm, nixHashBytes, nixHashOf, parseNixHash } from "../src/nix/nix-hash.ts";
import { NIX_STORE_DIR, parseAbsoluteStorePath, parseStorePath } from "../src/nix/store-path.ts";
import { narInfoCorpus, vectors } from "./vectors.ts";

const storeDir = NIX_STORE_DIR;
const alone = { storeDir, references: [], refersToItself: false };
const sha256Text = (text: string) =>
  nixHashOf("sha256", createHash("sha256").update(text).digest());

it.each(vectors.ca_strings)(
  "the CA %s is parsed and written again",
  (text, { mode, algo, hex }) => {
    const ca = parseContentAddress(text);
    expect(ca.method).toBe(mode);
    expect(nixHashAlgorithm(ca.hash)).toBe(algo);
    expect(nixHashBytes(ca.hash).toString("hex")).toBe(hex);
    expect(formatContentAddress(ca)).toBe(text);
  },
);

it.each([
  "",
  "fixed",
  "fixed:",
  "fixed:r:sha256:0",
  "fixed:git:sha1:00",
  "text:sha1:mj1l54np5ii9al6g2cjb02n3jxwpf5k0",
])("the CA %j is refused", (text) => {
  expect(() => parseContentAddress(text)).toThrowError(
    expect.objectContaining({ code: "INVALID" }),
  );
});

describe("contentAddressedPath()", () => {
  const [foo = "", baz = "", sha1 = "", sha256 = ""] = Object.values(vectors.ca_paths.known);

  it("names texts as toFile does", () => {
    const ca = { method: "text", hash: sha256Text("bar") } as const;
    expect(contentAddressedPath({ ...alone, name: "foo", ca })).toBe(foo);
  });

  it("names a text that refers to another", () => {
    const hash = sha256Text(`${storeDir}/${foo}`);
    const references = [parseStorePath(foo)];
    const path = { ...alone, references, name: "baz", ca: { method: "text", hash } as const };
    expect(contentAddressedPath(path)).toBe(baz);
    expect(() => contentAddressedPath({ ...path, refersToItself: true })).toThrowError(
      /references/,
    );
  });

  it("names fixed outputs of another hash than sha256, which refer to nothing", () => {
    const ca = parseContentAddress("fixed:r:sha1:0beec7b5ea3f0fdbc95d0dd47f3c5bc275da8a33");
    expect(contentAddressedPath({ ...alone, name: "bar", ca })).toBe(sha1);
    const references = [parseStorePath(foo)];
    expect(() => contentAddressedPath({ ...alone, references, name: "bar", ca })).toThrowError(
      /references/,
    );
  });

  it("names sources that refer to others", () => {
    const hash = parseNixHash("sha256:1xqkzcb3909fp07qngljr4wcdnrh1gdam1m2n29i6hhrxlmkgkv1");
    const references = [parseStorePath("dxwkwjzdaq7ka55pkk252gh32bgpmql4-foo")];
    const path = { ...alone, references, name: "baz", ca: { method: "nar", hash } as const };
    expect(contentAddressedPath(path)).toBe(sha256);
    expect(contentAddressedPath({ ...path, refersToItself: true })).not.toBe(sha256);
  });

  it.each(Object.values(vectors.ca_paths.derived_import_path))(
    "names $name as import does",
    ({ name, store_path, ca }) => {
      const path = contentAddressedPath({ ...alone, name, ca: parseContentAddress(ca) });
      expect(path).toBe(parseAbsoluteStorePath(store_path));
    },
  );

  it("refuses a name that no store path has", () => {
    const ca = { method: "text", hash: sha256Text("") } as const;
    expect(() => contentAddressedPath({ ...alone, name: "a/b", ca })).toThrowError(/"a\/b"/);
  });
});

describe("isContentAddressed()", () => {
  const narInfos = narInfoCorpus().map((text) => parseNarInfo(text));
  const addressed = narInfos.filter(({ ca }) => ca !== undefined);

  it("holds for each of the 8 real narinfos with a CA, and for no other", () => {
    expect(addressed).toHaveLength(8);
    expect(narInfos.filter(isContentAddressed)).toEqual(addressed);
  });

  it("does not hold with another name, store, reference or CA", () => {
    for (const narInfo of addressed) {
      const other = parseStorePath("00bgd045z0d4icpbc2yyz4gx48ak44la-a");
      const hash = sha256Text("another");
      for (const changed of [
        { ...narInfo, storePath: parseStorePath(`${narInfo.storePath}x`) },
        { ...narInfo, storeDir: "/other" as typeof storeDir },
        { ...narInfo, references: [...narInfo.references, other] },
        { ...narInfo, references: [...narInfo.references, narInfo.storePath] },
        { ...narInfo, ca: narInfo.ca && { ...narInfo.ca, hash } },
        { ...narInfo, ca: undefined },
      ]) {
        expect(isContentAddressed(changed)).toBe(false);
      }
    }
  });

  it("holds for a source that refers to itself", () => {
    const ca = { method: "nar", hash: sha256Text("nar") } as const;
    const storePath = contentAddressedPath({ ...alone, refersToItself: true, name: "self", ca });
    expect(isContentAddressed({ storeDir, storePath, references: [storePath], ca })).toBe(true);
    expect(isContentAddressed({ storeDir, storePath, references: [], ca })).toBe(false);
  });
});
