import { isCastoreError } from "@castore/castore";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { acceptedFingerprints, formatFingerprint } from "../src/nix/fingerprint.ts";
import { narInfoServedAt } from "../src/nix/nar-info.ts";
import {
  decodeNarInfo,
  formatNarInfo,
  NAR_INFO_BYTES_MAX,
  NAR_INFO_SIGNATURES_MAX,
  parseNarInfo,
} from "../src/nix/nar-info-text.ts";
import { nixHashBytes } from "../src/nix/nix-hash.ts";
import { parseStoreDir } from "../src/nix/store-path.ts";
import { narInfoCorpus, vectors } from "./vectors.ts";

const QUIRKS: { readonly [flag: string]: string } = {
  REFERENCES_OUT_OF_ORDER: "references-out-of-order",
  COMPRESSION_DEFAULT: "no-compression",
  EXPLICIT_UNKNOWN_DERIVER: "unknown-deriver",
  NAR_HASH_HEX: "nar-hash-form",
  REFERENCES_MISSING: "no-references",
};

const corpus = narInfoCorpus();

describe("the narinfos of cache.nixos.org", () => {
  it("are 978 and are written again byte for byte", () => {
    expect(corpus).toHaveLength(vectors.narinfo_corpus.entries);
    for (const text of corpus) expect(formatNarInfo(parseNarInfo(text))).toBe(text);
  });
});

describe.each(vectors.narinfos)(
  "snix's narinfo $name",
  ({ text, fingerprint, sigs, expect: want }) => {
    const narInfo = parseNarInfo(text);

    it("parses to what snix parses it to", () => {
      expect(narInfo.quirks).toEqual((want.flags ?? []).map((flag) => QUIRKS[flag]));
      expect(narInfo.signatures).toEqual(sigs.map(({ sig }) => sig));
      if (want.compression !== undefined)
        expect(narInfo.compression).toBe(want.compression ?? "none");
      if (want.deriver === null) expect(narInfo.deriver).toBeUndefined();
      if (want.references !== undefined) expect(narInfo.references).toEqual(want.references);
      if (want.ca !== undefined) {
        expect(narInfo.ca?.method).toBe(want.ca.mode);
        expect(narInfo.ca && nixHashBytes(narInfo.ca.hash).toString("hex")).toBe(want.ca.hex);
      }
    });

    it("is written again as it was, where snix does so", () => {
      if (want.roundtrip === true) expect(formatNarInfo(narInfo)).toBe(text);
      expect(parseNarInfo(formatNarInfo(narInfo))).toEqual({
        ...narInfo,
        quirks: narInfo.quirks.filter((quirk) => quirk !== "nar-hash-form"),
      });
    });

    it("has snix's fingerprint", () => {
      expect(acceptedFingerprints(narInfo)).toContain(fingerprint);
      const sorted = formatFingerprint(narInfo) === fingerprint;
      expect(sorted).toBe(!narInfo.quirks.includes("references-out-of-order"));
    });
  },
);

const LINES = [
  "StorePath: /nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-a",
  "URL: nar/x.nar",
  "NarHash: sha256:0lxjvvpr59c2mdram7ympy5ay741f180kv3349hvfc3f8nrmbqf6",
  "NarSize: 464152",
];
const SIG =
  "Sig: k:sn5s/RrqEI+YG6/PjwdbPjcAC7rcta7sJU4mFOawGvJBLsWkyLtBrT2EuFt/LJjWkTZ+ZWOI9NTtjo/woMdvAg==";
const textOf = (...lines: string[]) => lines.map((line) => `${line}\n`).join("");

describe("parseNarInfo()", () => {
  it("reads lines in any order, ignores unknown keys and spaces between references", () => {
    const narInfo = parseNarInfo(
      textOf(
        ...[...LINES].reverse(),
        "Future: é",
        "Future: 2",
        "References:  7gx4kiv5m0i7d7qkixq2cwzbr10lvxwc-glibc-2.27  ",
      ),
    );
    expect(narInfo.references).toEqual(["7gx4kiv5m0i7d7qkixq2cwzbr10lvxwc-glibc-2.27"]);
    expect(formatNarInfo(narInfo)).not.toContain("Future");
  });

  it("reads a narinfo of another store only as that store's", () => {
    const text = textOf(...LINES).replace("/nix/store", "/other");
    expect(() => parseNarInfo(text)).toThrowError(/line 1, StorePath: .*MissingStoreDir/);
    const storeDir = parseStoreDir("/other");
    expect(formatNarInfo(parseNarInfo(text, storeDir))).toContain("StorePath: /other/00bgd");
  });

  it.each(["StorePath", "URL", "NarHash", "NarSize"])("refuses a text without %s", (key) => {
    const text = textOf(...LINES.filter((line) => !line.startsWith(`${key}:`)));
    expect(() => parseNarInfo(text)).toThrowError(`narinfo: ${key} is missing`);
  });

  it.each([
    ["URL: nar/y.nar", /line 5, URL: .*twice/],
    ["References: a", /line 5, References: .*Length/],
    ["Compression: ", /line 5, Compression: .*empty/],
    ["Deriver: ", /line 5, Deriver: .*empty/],
    ["Deriver: 00bgd045z0d4icpbc2yyz4gx48ak44la-a", /line 5, Deriver: .*\.drv/],
    ["Sig: k:AAAA", /line 5, Sig: .*64 bytes/],
    [`${SIG}x`, /line 5, Sig: /],
    ["CA: fixed:r:sha256:0", /line 5, CA: /],
    ["FileSize: -1", /line 5, FileSize: .*count of bytes/],
    ["FileSize: 9007199254740992", /line 5, FileSize: /],
    ["FileSize: 1e3", /line 5, FileSize: /],
    ["FileHash: sha256", /line 5, FileHash: /],
    ["Unknown:", /line 5: want Key: value/],
    ["Unknown:value", /line 5: want Key: value/],
    [": value", /line 5: want Key: value/],
    ["", /line 5: want Key: value/],
    ["System: x86_64-linux\r", /line 5: .*control characters/],
    ["System: a\u0000b", /line 5: .*control characters/],
  ])("refuses the line %j", (line, message) => {
    expect(() => parseNarInfo(textOf(...LINES, line))).toThrowError(
      expect.objectContaining({ code: "INVALID", message: expect.stringMatching(message) }),
    );
  });

  it.each([
    ["NarSize: 0", /NarSize: no NAR is empty/],
    ["NarHash: sha1:mj1l54np5ii9al6g2cjb02n3jxwpf5k0", /NarHash: .*sha256/],
    ["URL: nar/a b", /URL: .*spaces/],
  ])("refuses %j where that key stood", (line, message) => {
    const key = line.slice(0, line.indexOf(":"));
    const text = textOf(...LINES.map((old) => (old.startsWith(`${key}:`) ? line : old)));
    expect(() => parseNarInfo(text)).toThrowError(message);
  });

  it("refuses a text cut anywhere but at the end of an optional line", () => {
    for (const text of corpus.filter(({ length }) => length < 1000).slice(0, 3)) {
      const needed = text.indexOf("\n", text.indexOf("NarSize")) + 1;
      for (let length = 0; length < text.length; length++) {
        if (length >= needed && text[length - 1] === "\n") continue;
        expect(() => parseNarInfo(text.slice(0, length))).toThrowError(/narinfo/);
      }
    }
  });

  it(`reads ${NAR_INFO_SIGNATURES_MAX} signatures and refuses one more`, () => {
    const sigs = Array.from({ length: NAR_INFO_SIGNATURES_MAX }, () => SIG);
    expect(parseNarInfo(textOf(...LINES, ...sigs)).signatures).toHaveLength(sigs.length);
    expect(() => parseNarInfo(textOf(...LINES, ...sigs, SIG))).toThrowError(/Sig: over 64/);
  });

  it("gives a narinfo that is written and read again, or INVALID, whatever it reads", () => {
    const keys = ["References", "Deriver", "CA", "Sig", "System", "FileSize", "X", "URL"];
    const pool = LINES.concat(
      SIG,
      corpus.slice(0, 20).flatMap((text) => text.split("\n")),
    );
    const line = fc.oneof(
      fc.constantFrom(...pool),
      fc.tuple(fc.constantFrom(...keys), fc.string()).map(([key, value]) => `${key}: ${value}`),
    );
    let parsed = 0;
    fc.assert(
      fc.property(fc.array(line, { maxLength: 6 }), fc.boolean(), (lines, whole) => {
        try {
          const narInfo = parseNarInfo(textOf(...(whole ? LINES : []), ...lines));
          const again = parseNarInfo(formatNarInfo(narInfo));
          expect({ ...again, quirks: [] }).toEqual({ ...narInfo, quirks: [] });
          parsed++;
        } catch (error) {
          if (!isCastoreError(error, "INVALID")) throw error;
        }
      }),
      { numRuns: 1000 },
    );
    expect(parsed).toBeGreaterThan(0);
  });
});

describe("decodeNarInfo()", () => {
  it("reads a narinfo at the limit and refuses one byte more", () => {
    const text = textOf(...LINES);
    const filled = (size: number) =>
      Buffer.from(text + textOf(`X: ${"x".repeat(size - text.length - 4)}`));
    expect(decodeNarInfo(filled(NAR_INFO_BYTES_MAX)).narSize).toBe(464152);
    expect(() => decodeNarInfo(filled(NAR_INFO_BYTES_MAX + 1))).toThrowError(
      expect.objectContaining({ code: "EXHAUSTED" }),
    );
  });

  it("refuses what is not UTF-8", () => {
    const bytes = Buffer.concat([
      Buffer.from(textOf(...LINES)),
      Buffer.from("X: \xff\n", "latin1"),
    ]);
    expect(() => decodeNarInfo(bytes)).toThrowError(
      expect.objectContaining({ code: "INVALID", message: "narinfo: not UTF-8" }),
    );
  });
});

describe("narInfoServedAt()", () => {
  it("changes URL, Compression and the file fields of each real narinfo and nothing else", () => {
    for (const text of corpus) {
      const lines = text.split("\n").filter((line) => !/^File(Hash|Size): /.test(line));
      const expected = lines.map((line) =>
        line.replace(/^URL: .*/, "URL: nar/x.nar").replace(/^Compression: .*/, "Compression: none"),
      );
      const served = formatNarInfo(narInfoServedAt(parseNarInfo(text), "nar/x.nar"));
      expect(served).toBe(expected.join("\n"));
    }
  });

  it("writes the lines that some clients need", () => {
    const served = formatNarInfo(narInfoServedAt(parseNarInfo(textOf(...LINES)), "nar/x.nar"));
    expect(served).toContain("\nCompression: none\n");
    expect(served).toContain("\nReferences: \n");
    for (const line of served.slice(0, -1).split("\n")) expect(line).toMatch(/^[A-Za-z]+: /);
  });
});
