import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createContentCheck, SELF_REFERENCES_MAX } from "../src/nar/content-check.ts";
import { type ContentAddress, isContentAddressed } from "../src/nix/content-address.ts";
import { parseNarInfo } from "../src/nix/nar-info-text.ts";
import { parseNixHash } from "../src/nix/nix-hash.ts";
import { parseStorePath } from "../src/nix/store-path.ts";
import { vectors } from "./vectors.ts";

/** What `nix store make-content-addressed` (Nix 2.8) made of a file that names its own path. */
const SELF = parseNarInfo(`StorePath: /nix/store/3lhcchyd2aymwpapag486yq17x63s0d1-self
URL: nar/0vqh3g44r34vrgi6yvh7cl5lb004ay2cfqgp9nnalhggyc5qsl1m.nar
Compression: none
NarHash: sha256:0vqh3g44r34vrgi6yvh7cl5lb004ay2cfqgp9nnalhggyc5qsl1m
NarSize: 264
References: 3lhcchyd2aymwpapag486yq17x63s0d1-self
CA: fixed:r:sha256:05d7b8ndvdwswr4n9yblyzszpangw28p7pbqbqq8z2xhv88ancqq
`);
const SELF_PATH = "/nix/store/3lhcchyd2aymwpapag486yq17x63s0d1-self";
const SELF_NAR = narOfFile(`${SELF_PATH}\nx${SELF_PATH}/y ${SELF_PATH}\n`);
const SELF_CA: ContentAddress = SELF.ca ?? { method: "nar", hash: SELF.narHash };

const storePath = parseStorePath("00bgd045z0d4icpbc2yyz4gx48ak44la-a");
const { ok, hash_mismatch, type_mismatch } = vectors.nars_ca_ingest;

function narOfFile(contents: string): Buffer {
  const word = (text: string) => {
    const bytes = Buffer.alloc(8 + 8 * Math.ceil(text.length / 8));
    bytes.writeUInt32LE(text.length);
    bytes.write(text, 8);
    return bytes;
  };
  const words = ["nix-archive-1", "(", "type", "regular", "contents", contents, ")"];
  return Buffer.concat(words.map(word));
}

/** Whether `nar`, given in pieces of `size`, is what `ca` names. */
function matches(ca: ContentAddress, nar: Buffer, size = nar.byteLength, path = { storePath }) {
  const check = createContentCheck({ references: [], ...path, ca });
  for (let at = 0; at < nar.byteLength; at += size) check.update(nar.subarray(at, at + size));
  return check.matches();
}

const narOf = (name: string) => Buffer.from(vectors.nars[name]?.hex ?? "", "hex");

describe("createContentCheck()", () => {
  it.each(ok)("takes %s by its %s %s, in pieces of any size", (name, method, algorithm, hex) => {
    const ca = { method, hash: parseNixHash(`${algorithm}:${hex}`) };
    for (const size of [1, 7, 100, 4096]) expect(matches(ca, narOf(name), size)).toBe(true);
  });

  it.each(hash_mismatch)("refuses %s by another %s %s", (name, method, algorithm, hex) => {
    const ca = { method, hash: parseNixHash(`${algorithm}:${hex}`) };
    expect(matches(ca, narOf(name))).toBe(false);
  });

  it.each([...type_mismatch, ["EXECUTABLE_HELLOWORLD", "flat", "md5", ""] as const])(
    "refuses %s as the contents of a file",
    (name) => {
      const flat = ok.find(([, method]) => method === "flat");
      const ca = { method: "flat", hash: parseNixHash(`${flat?.[2]}:${flat?.[3]}`) } as const;
      expect(matches(ca, narOf("HELLOWORLD"))).toBe(true);
      expect(matches(ca, narOf(name))).toBe(false);
    },
  );

  it("refuses a file's NAR that is cut within its contents, or says that it is longer", () => {
    const nar = narOf("EMPTY_FILE");
    const empty = parseNixHash("md5:d41d8cd98f00b204e9800998ecf8427e");
    const ca = { method: "flat", hash: empty } as const;
    expect(matches(ca, nar)).toBe(true);
    expect(matches(ca, nar.subarray(0, 95))).toBe(false);
    const longer = Buffer.from(nar);
    longer.fill(0xff, 88, 96);
    expect(matches(ca, longer)).toBe(false);
  });

  it("blanks out the path's own hash as Nix does", () => {
    expect(isContentAddressed(SELF)).toBe(true);
    fc.assert(
      fc.property(fc.integer({ min: 1, max: SELF_NAR.byteLength }), (size) => {
        expect(matches(SELF_CA, SELF_NAR, size, SELF)).toBe(true);
      }),
      { numRuns: 300 },
    );
    expect(matches(SELF_CA, SELF_NAR)).toBe(false);
    const moved = narOfFile(`${SELF_PATH}\n${SELF_PATH}/y x${SELF_PATH}\n`);
    expect(matches(SELF_CA, moved, 264, SELF)).toBe(false);
  });

  it("leaves the bytes that it is given as they are", () => {
    const nar = Buffer.from(SELF_NAR);
    matches(SELF_CA, nar, 100, SELF);
    expect(nar).toEqual(SELF_NAR);
  });

  it("counts only so many references of a path to itself", () => {
    const check = createContentCheck({ ...SELF, ca: SELF_CA });
    const hash = Buffer.from("3lhcchyd2aymwpapag486yq17x63s0d1");
    check.update(Buffer.alloc(SELF_REFERENCES_MAX * 32, hash));
    expect(() => check.update(hash)).toThrowError(expect.objectContaining({ code: "EXHAUSTED" }));
  });
});
