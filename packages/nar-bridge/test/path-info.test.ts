import {
  bytesField,
  encodeEntry,
  isCastoreError,
  messageField,
  parseEntryText,
  uintField,
} from "@castore/castore";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { SecretKey } from "../src/nix/ed25519-key.ts";
import { formatFingerprint } from "../src/nix/fingerprint.ts";
import { narInfoServedAt } from "../src/nix/nar-info.ts";
import { formatNarInfo, parseNarInfo } from "../src/nix/nar-info-text.ts";
import { nixHashBytes, nixHashOf } from "../src/nix/nix-hash.ts";
import { signFingerprint } from "../src/nix/signature.ts";
import { RootSigningKey } from "../src/nix/signed-root.ts";
import { parseStoreDir, storeHashBytes, storePathHash } from "../src/nix/store-path.ts";
import { narInfoOf, type PathInfo, pathInfoOf } from "../src/path-infos/path-info.ts";
import {
  decodePathInfo,
  decodeSignedPathInfo,
  encodePathInfo,
  encodeSignedPathInfo,
  PATH_INFO_BYTES_MAX,
} from "../src/path-infos/path-info-codec.ts";
import { narInfoCorpus, vectors } from "./vectors.ts";

const node = parseEntryText("GhoSGC9uaXgvc3RvcmUvc29tZXdoZXJlZWxzZQ");
const corpus = narInfoCorpus().map((text) => parseNarInfo(text));
const fromVector = (name: string) =>
  decodePathInfo(Buffer.from(vectors.pathinfos[name]?.proto_hex ?? "", "hex"));

describe("encodePathInfo() and decodePathInfo()", () => {
  it.each(Object.entries(vectors.pathinfos))("agree with snix on %s", (_, vector) => {
    const pathInfo = decodePathInfo(Buffer.from(vector.proto_hex, "hex"));
    expect(Buffer.from(encodePathInfo(pathInfo)).toString("hex")).toBe(vector.proto_hex);
    const key = storeHashBytes(storePathHash(pathInfo.storePath)).toString("hex");
    expect(key).toBe(vector.redb_key_hex);
  });

  it("read what snix wrote", () => {
    expect(fromVector("PATH_INFO")).toMatchObject({
      storePath: "00000000000000000000000000000000-dummy",
      node: { type: "directory", size: 0 },
      narSize: 0,
      references: ["00000000000000000000000000000000-dummy"],
      ca: { method: "nar", hash: `sha256:${"0".repeat(52)}` },
    });
    expect(fromVector("GO_SYMLINK_FULL")).toMatchObject({
      node,
      references: ["00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60_p2017022118243"],
      deriver: "00bgd045z0d4icpbc2yyz4gx48ak44la-foo.drv",
    });
  });

  it("keep all of each real narinfo that a path info holds", () => {
    expect(corpus).toHaveLength(978);
    for (const narInfo of corpus) {
      const pathInfo = pathInfoOf(narInfo, node);
      expect(decodePathInfo(encodePathInfo(pathInfo))).toEqual(pathInfo);
    }
  });

  it("number content addresses as snix does", () => {
    const algorithms = { MD5: "md5", SHA1: "sha1", SHA256: "sha256", SHA512: "sha512" } as const;
    const sizes = { MD5: 16, SHA1: 20, SHA256: 32, SHA512: 64 };
    expect(Object.keys(vectors.ca_enum)).toHaveLength(9);
    for (const [name, number] of Object.entries(vectors.ca_enum)) {
      const [kind = "", algorithm = ""] = name.split("_");
      const method = kind.toLowerCase() as "nar" | "flat" | "text";
      const known = algorithm as keyof typeof algorithms;
      const hash = nixHashOf(algorithms[known], new Uint8Array(sizes[known]).fill(1));
      const pathInfo = { ...fromVector("PATH_INFO"), ca: { method, hash } };
      const type = number === 0 ? [] : [0x08, number];
      const ca = Buffer.from([...type, 0x12, sizes[known], ...nixHashBytes(hash)]);
      expect(Buffer.from(encodePathInfo(pathInfo)).subarray(-ca.length)).toEqual(ca);
      expect(decodePathInfo(encodePathInfo(pathInfo))).toEqual(pathInfo);
    }
  });

  it("pass over unknown fields and take fields in any order", () => {
    const bytes = Buffer.from(vectors.pathinfos.PATH_INFO_SYMLINK?.proto_hex ?? "", "hex");
    const narInfoAt = bytes.indexOf(Buffer.from("1a25", "hex"));
    const unknown = Buffer.from("980601a20603616263ad0601020304", "hex");
    const parts = [bytes.subarray(narInfoAt), unknown, bytes.subarray(0, narInfoAt)];
    expect(decodePathInfo(Buffer.concat(parts))).toEqual(fromVector("PATH_INFO_SYMLINK"));
  });

  it("know the directory of the store from outside", () => {
    const storeDir = parseStoreDir("/other");
    const pathInfo = { ...fromVector("PATH_INFO_SYMLINK"), storeDir };
    expect(decodePathInfo(encodePathInfo(pathInfo), storeDir)).toEqual(pathInfo);
  });

  it("refuse a message over the limit", () => {
    const bytes = new Uint8Array(PATH_INFO_BYTES_MAX + 1);
    expect(() => decodePathInfo(bytes)).toThrowError(
      expect.objectContaining({ code: "EXHAUSTED" }),
    );
  });

  it("fail only with INVALID on damaged bytes", () => {
    const whole = Buffer.from(encodePathInfo(pathInfoOf(corpus[0] ?? raise(), node)));
    const place = fc.nat(whole.length - 1);
    fc.assert(
      fc.property(fc.array(fc.tuple(place, fc.nat(255)), { maxLength: 3 }), place, (flips, cut) => {
        const bytes = Buffer.from(whole);
        for (const [at, value] of flips) bytes[at] = value;
        for (const damaged of [bytes, bytes.subarray(0, cut)]) {
          try {
            const pathInfo = decodePathInfo(damaged);
            expect(decodePathInfo(encodePathInfo(pathInfo))).toEqual(pathInfo);
          } catch (error) {
            if (!isCastoreError(error, "INVALID")) throw error;
          }
        }
      }),
      { numRuns: 2000 },
    );
  });
});

/** The parts of a valid path info, of which a case replaces some. */
const PARTS = {
  entry: [encodeEntry({ name: "00000000000000000000000000000000-dummy", node })],
  references: [new Uint8Array(20)],
  names: ["00000000000000000000000000000000-dummy"],
  narHash: new Uint8Array(32),
  deriver: { name: "foo", digest: new Uint8Array(20) },
  signature: new Uint8Array(64),
  ca: { type: 0, digest: new Uint8Array(32) },
  narInfo: true,
};

function encodeParts(parts: typeof PARTS): Uint8Array {
  const { deriver, signature, ca } = parts;
  const text = (field: number, value: string) => bytesField(field, Buffer.from(value));
  const narInfo = [
    bytesField(2, parts.narHash),
    messageField(3, Buffer.concat([text(1, "k"), bytesField(2, signature)])),
    ...parts.names.map((name) => text(4, name)),
    messageField(5, Buffer.concat([text(1, deriver.name), bytesField(2, deriver.digest)])),
    messageField(6, Buffer.concat([uintField(1, ca.type), bytesField(2, ca.digest)])),
  ];
  return Buffer.concat([
    ...parts.entry.map((entry) => messageField(1, entry)),
    ...parts.references.map((reference) => messageField(2, reference)),
    ...(parts.narInfo ? [messageField(3, Buffer.concat(narInfo))] : []),
  ]);
}

const named = (name: string) => [encodeEntry({ name, node })];
const EMPTY_FILE = Buffer.from("120a0a08696e76616c69642e", "hex");
/** One case for each of the vectors' `pathinfo_validation`, in their order. */
const CASES: readonly (Partial<typeof PARTS> & { readonly error: string | undefined })[] = [
  { entry: [], error: "NoEntryPresent" },
  { entry: [Buffer.alloc(0)], error: "InvalidRootNode(entry: NoEntrySet)" },
  { entry: [EMPTY_FILE], error: "InvalidNode: InvalidDigestLen(0)" },
  { entry: named("invalid"), error: 'InvalidNodeName("invalid", Length)' },
  { narInfo: false, error: "NarInfoFieldMissing" },
  { narHash: new Uint8Array(2), error: "InvalidNarSha256DigestLen(2)" },
  { names: [], error: "InconsistentNumberOfReferences(1, 0)" },
  {
    references: [new Uint8Array(20), new Uint8Array(2)],
    error: "InvalidReferenceDigestLen(1, 2)",
  },
  {
    names: ["/nix/store/00000000000000000000000000000000-dummy"],
    error: 'InvalidNarinfoReferenceName(0, "/nix/store/0000',
  },
  {
    references: [new Uint8Array(20).fill(0xff)],
    error: `InconsistentNarinfoReferenceNameDigest(0, ${"z".repeat(32)}, ${"0".repeat(32)})`,
  },
  { deriver: { name: "foo", digest: new Uint8Array(0) }, error: "InvalidDeriverField(Length)" },
  { signature: new Uint8Array(63), error: "InvalidSignature(0, InvalidSignatureLen(63))" },
  {
    ca: { type: 1, digest: new Uint8Array(32) },
    error: "InvalidCaField(InvalidReferenceDigestLen(32, nar sha1))",
  },
  {
    ca: { type: 99, digest: new Uint8Array(32) },
    error: "InvalidCaField(UnknownHashType(99))",
  },
  { error: undefined },
];

describe("decodePathInfo() checks as snix does", () => {
  it("has a case for each of the vectors", () => {
    expect(CASES).toHaveLength(vectors.pathinfo_validation.length);
    CASES.forEach(({ error }, index) => {
      const [, expected = ""] = vectors.pathinfo_validation[index] ?? [];
      const word = (text: string) => /^\w+/.exec(text)?.[0];
      if (error === undefined) expect(expected).toBe("ok");
      else if (!error.startsWith("InvalidNode:")) expect(word(expected)).toBe(word(error));
    });
  });

  it.each(CASES.map((one, index) => [vectors.pathinfo_validation[index]?.[0], one] as const))(
    "%s",
    (_, { error, ...parts }) => {
      const bytes = encodeParts({ ...PARTS, ...parts });
      if (error === undefined) expect(decodePathInfo(bytes).deriver).toMatch(/-foo\.drv$/);
      else expect(() => decodePathInfo(bytes)).toThrowError(error);
    },
  );

  it("in snix's order: of two faults the first is named", () => {
    const order = [4, 7, 6, 8, 0, 5, 10, 11, 13];
    for (const [rank, first] of order.entries()) {
      for (const second of order.slice(rank + 1)) {
        const { error = "", ...parts } = CASES[first] ?? raise();
        const { error: _error, ...later } = CASES[second] ?? raise();
        const bytes = encodeParts({ ...PARTS, ...later, ...parts });
        expect(() => decodePathInfo(bytes)).toThrowError(error);
      }
    }
  });

  it.each([
    ["an integer of 2^53", "088080808080808010", "integer of 2^53 or more"],
    ["a length beyond the end", "12ff01", "truncated"],
    ["a field of another type", "2001", "wire type 0, want 2"],
  ])("refuses %s", (_, hex, message) => {
    const narHash = bytesField(2, PARTS.narHash);
    const narInfo = messageField(3, Buffer.concat([narHash, Buffer.from(hex, "hex")]));
    const bytes = Buffer.concat([messageField(1, PARTS.entry[0] ?? raise()), narInfo]);
    expect(() => decodePathInfo(bytes)).toThrowError(
      expect.objectContaining({ code: "INVALID", message: expect.stringContaining(message) }),
    );
  });

  it("refuses names that no deriver and no key has", () => {
    const deriver = { name: "a/b", digest: new Uint8Array(20) };
    expect(() => decodePathInfo(encodeParts({ ...PARTS, deriver }))).toThrowError(/InvalidName/);
  });
});

describe("a signed path info", () => {
  const [{ keypair = "" } = {}] = vectors.signing;
  const plain = pathInfoOf(corpus[0] ?? raise(), node);
  const signed: PathInfo = {
    ...plain,
    rootSignatures: [RootSigningKey.parse(keypair).sign(plain, node)],
  };

  it("brings its root signatures, which snix's PathInfo leaves out", () => {
    expect(decodeSignedPathInfo(encodeSignedPathInfo(signed))).toEqual(signed);
    expect(decodeSignedPathInfo(encodeSignedPathInfo(plain))).toEqual(plain);
    expect(decodePathInfo(encodePathInfo(signed))).toEqual(plain);
  });
});

describe("narInfoOf()", () => {
  it("is the narinfo that snix renders, but for the FileSize that no client needs", () => {
    const pathInfo = fromVector("PATH_INFO_SYMLINK");
    const url = "nar/snix-castore/GhoSGC9uaXgvc3RvcmUvc29tZXdoZXJlZWxzZQ?narsize=136";
    const narInfo = narInfoOf(pathInfo, url);
    const expected = vectors.nar_bridge.get_narinfo_PATH_INFO_SYMLINK ?? "";
    expect(formatNarInfo({ ...narInfo, fileSize: pathInfo.narSize })).toBe(expected);
    expect(formatNarInfo(narInfo)).toBe(expected.replace(/^FileSize: .*\n/m, ""));
  });

  it("of what pathInfoOf() made is the narinfo again, as served from elsewhere", () => {
    for (const narInfo of corpus) {
      const served = narInfoServedAt({ ...narInfo, system: undefined }, "nar/x.nar");
      expect(narInfoOf(pathInfoOf(narInfo, node), "nar/x.nar")).toEqual(served);
    }
  });

  it("is signed as snix signs it", () => {
    for (const [name, path] of [
      ["PATH_INFO via SigningPathInfoService", "PATH_INFO"],
      ["PATH_INFO_SYMLINK", "PATH_INFO_SYMLINK"],
    ] as const) {
      const vector = vectors.signing.find((signing) => signing.name === name) ?? raise();
      const fingerprint = formatFingerprint(fromVector(path));
      expect(fingerprint).toBe(vector.fingerprint);
      expect(signFingerprint(SecretKey.parse(vector.keypair), fingerprint)).toBe(vector.signature);
    }
  });
});

function raise(): never {
  throw new Error("a vector is missing");
}
