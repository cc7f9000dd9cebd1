import { parseEntryText } from "@castore/castore";
import { describe, expect, it } from "vitest";
import { PublicKey, SecretKey } from "../src/nix/ed25519-key.ts";
import { formatFingerprint } from "../src/nix/fingerprint.ts";
import { parseNarInfo } from "../src/nix/nar-info-text.ts";
import {
  parseSignature,
  signatureBytes,
  signatureKeyName,
  signatureOf,
  signFingerprint,
  verifySignature,
} from "../src/nix/signature.ts";
import { formatRootFingerprint, RootSigningKey, TrustedRootKeys } from "../src/nix/signed-root.ts";
import { TrustedKeys } from "../src/nix/trusted-keys.ts";
import { CACHE_NIXOS_ORG_KEY, narInfoCorpus, vectors } from "./vectors.ts";

const INVALID = expect.objectContaining({ code: "INVALID" });
const trusted = Object.entries(vectors.trusted_keys).map(([name, key]) => `${name}:${key}`);

describe("PublicKey", () => {
  it.each(vectors.verifying_key_parse.ok)("parses %s", (text, name) => {
    const key = PublicKey.parse(text);
    expect(key.name).toBe(name);
    expect(key.text).toBe(text);
  });

  it.each(vectors.verifying_key_parse.fail)("refuses %s", (text) => {
    expect(() => PublicKey.parse(text)).toThrowError(INVALID);
  });

  it("refuses every point of small order, and every y that is not reduced", () => {
    const weak = [...smallOrderY(), P, P + 1n, P + 18n];
    expect(weak).toHaveLength(8);
    for (const y of weak) {
      for (const sign of [0n, 1n << 255n]) {
        const text = `k:${littleEndian(y + sign).toString("base64")}`;
        expect(() => PublicKey.parse(text)).toThrowError("weak point");
      }
    }
  });
});

describe("verifySignature()", () => {
  it.each(vectors.verify_cases)("says $key_verify of $sig", (verifyCase) => {
    const key = PublicKey.parse(verifyCase.key);
    const signature = parseSignature(verifyCase.sig);
    const valid = key.verifies(verifyCase.fingerprint, signatureBytes(signature));
    expect(valid).toBe(verifyCase.raw_sig_valid);
    expect(verifySignature(key, verifyCase.fingerprint, signature)).toBe(verifyCase.key_verify);
  });

  it("refuses a signature whose scalar is not reduced, or whose R has small order", () => {
    const key = PublicKey.parse(CACHE_NIXOS_ORG_KEY);
    const { fingerprint = "", sig = "" } = vectors.verify_cases[0] ?? {};
    const bytes = signatureBytes(parseSignature(sig));
    expect(key.verifies(fingerprint, bytes)).toBe(true);
    const s = BigInt(`0x${Buffer.from(bytes.subarray(32)).reverse().toString("hex")}`);
    const unreduced = Buffer.concat([bytes.subarray(0, 32), littleEndian(s + L)]);
    expect(key.verifies(fingerprint, unreduced)).toBe(false);
    for (const y of smallOrderY()) {
      const weak = Buffer.concat([littleEndian(y), bytes.subarray(32)]);
      expect(key.verifies(fingerprint, weak)).toBe(false);
    }
    expect(key.verifies(fingerprint, bytes.subarray(1))).toBe(false);
  });
});

it.each(vectors.signature_parse_fail)("parseSignature() refuses %j", (text) => {
  expect(() => parseSignature(text)).toThrowError(INVALID);
});

describe("SecretKey", () => {
  it.each(vectors.signing)("signs as snix does: $name", (signing) => {
    const key = SecretKey.parse(signing.keypair);
    expect(key.publicKey.text).toBe(signing.verifying_key);
    const signature = signFingerprint(key, signing.fingerprint);
    expect(signature).toBe(signing.signature);
    expect(signatureOf(signatureKeyName(signature), signatureBytes(signature))).toBe(signature);
    expect(verifySignature(key.publicKey, signing.fingerprint, signature)).toBe(true);
  });

  it.each(vectors.keypair_parse_fail)("refuses %s", (text) => {
    expect(() => SecretKey.parse(text)).toThrowError(INVALID);
  });

  it("refuses halves of two keys, and does not show them", () => {
    const [one = "", other = ""] = vectors.signing.map(({ keypair }) => keypair.split(":")[1]);
    const secret = Buffer.from(one, "base64").subarray(0, 32);
    const half = Buffer.from(other, "base64").subarray(32);
    const text = `k:${Buffer.concat([secret, half]).toString("base64")}`;
    expect(() => SecretKey.parse(text)).toThrowError(INVALID);
    expect(() => SecretKey.parse(text)).not.toThrowError(secret.toString("base64").slice(0, 20));
  });

  it("prints as its public half", () => {
    const { keypair = "", verifying_key } = vectors.signing[0] ?? {};
    expect(JSON.parse(JSON.stringify(SecretKey.parse(`${keypair}\n`)))).toBe(verifying_key);
  });
});

describe("TrustedKeys", () => {
  it("finds cache.nixos.org-1 on each of the 978 real narinfos", () => {
    const keys = TrustedKeys.parse([CACHE_NIXOS_ORG_KEY]);
    const names = narInfoCorpus().map((text) => keys.verify(parseNarInfo(text)));
    expect(names).toHaveLength(978);
    expect(new Set(names)).toEqual(new Set(["cache.nixos.org-1"]));
  });

  it.each(vectors.narinfos)("tells which signatures of $name are valid", ({ text, sigs }) => {
    const keys = TrustedKeys.parse(trusted);
    const narInfo = parseNarInfo(text);
    for (const [index, { valid }] of sigs.entries()) {
      const signatures = narInfo.signatures.slice(index, index + 1);
      expect(keys.verify({ ...narInfo, signatures }) !== undefined).toBe(valid === true);
    }
  });

  it("does not verify once anything that the fingerprint holds is changed", () => {
    const keys = TrustedKeys.parse([CACHE_NIXOS_ORG_KEY]);
    const [first, second] = narInfoCorpus().map((text) => parseNarInfo(text));
    if (first === undefined || second === undefined) throw new Error("no corpus");
    expect(keys.verify(first)).toBe("cache.nixos.org-1");
    const { storePath, narHash, references } = second;
    const storeDir = "/nix/stork" as typeof first.storeDir;
    for (const change of [
      { storePath },
      { narHash },
      { references },
      { storeDir },
      { narSize: first.narSize + 1 },
      { references: first.references.slice(1) },
    ]) {
      expect(keys.verify({ ...first, ...change })).toBeUndefined();
    }
    const elsewhere = { ...first, url: "elsewhere", compression: "none" };
    expect(keys.verify(elsewhere)).toBeDefined();
  });

  it("tries every key of a name", () => {
    const other = trusted[1]?.split(":")[1];
    const keys = TrustedKeys.parse([`cache.nixos.org-1:${other}`, CACHE_NIXOS_ORG_KEY]);
    const [text = ""] = narInfoCorpus();
    expect(keys.verify(parseNarInfo(text))).toBe("cache.nixos.org-1");
  });

  it("takes a path that follows from its CA without any key", () => {
    const keys = TrustedKeys.parse([]);
    const trusts = narInfoCorpus().map((text) => keys.trusts(parseNarInfo(text)));
    expect(trusts.filter((trust) => trust?.by === "content-address")).toHaveLength(8);
    expect(trusts.filter((trust) => trust === undefined)).toHaveLength(970);
  });
});

describe("signed roots", () => {
  const [{ keypair = "", verifying_key = "" } = {}] = vectors.signing;
  const [text = "", otherText = ""] = narInfoCorpus();
  const path = parseNarInfo(text);
  const node = parseEntryText("GhoSGC9uaXgvc3RvcmUvc29tZXdoZXJlZWxzZQ");
  const rootSignatures = [RootSigningKey.parse(keypair).sign(path, node)];
  const keys = TrustedRootKeys.parse([CACHE_NIXOS_ORG_KEY, verifying_key]);

  it("are signed as the protocol says", () => {
    const text = `castore-root/1;${formatFingerprint(path)};GhoSGC9uaXgvc3RvcmUvc29tZXdoZXJlZWxzZQ`;
    expect(formatRootFingerprint(path, node)).toBe(text);
    expect(rootSignatures).toEqual([signFingerprint(SecretKey.parse(keypair), text)]);
  });

  it("verify under a trusted root key only, for this path and this node only", () => {
    expect(keys.verify({ ...path, node, rootSignatures })?.text).toBe(verifying_key);
    expect(keys.has(verifying_key)).toBe(true);
    expect(keys.has(trusted[1] ?? "")).toBe(false);
    expect(keys.verify({ ...path, node, rootSignatures: [] })).toBeUndefined();
    const other = parseEntryText("GgMSAWE");
    expect(keys.verify({ ...path, node: other, rootSignatures })).toBeUndefined();
    const otherPath = parseNarInfo(otherText);
    expect(keys.verify({ ...otherPath, node, rootSignatures })).toBeUndefined();
    const none = TrustedRootKeys.parse([CACHE_NIXOS_ORG_KEY]);
    expect(none.verify({ ...path, node, rootSignatures })).toBeUndefined();
  });

  it("do not pass for narinfo signatures, nor the reverse", () => {
    const signatures = rootSignatures.map((signature) => parseSignature(signature));
    expect(TrustedKeys.parse([verifying_key]).verify({ ...path, signatures })).toBeUndefined();
    const narInfoSignature = signFingerprint(SecretKey.parse(keypair), formatFingerprint(path));
    const swapped = [narInfoSignature as string as (typeof rootSignatures)[number]];
    expect(keys.verify({ ...path, node, rootSignatures: swapped })).toBeUndefined();
  });
});

/** The field and the group order of edwards25519. */
const P = 2n ** 255n - 19n;
const L = 2n ** 252n + 27742317777372353535851937790883648493n;

function power(base: bigint, exponent: bigint): bigint {
  let result = 1n;
  for (let b = base, e = exponent; e > 0n; e >>= 1n) {
    if (e & 1n) result = (result * b) % P;
    b = (b * b) % P;
  }
  return result;
}

/** y of the points whose order divides 8, from the curve's equation: 8 P = 0 ⇔ d y⁴ + 2 y² = 1. */
function smallOrderY(): bigint[] {
  const d = ((P - 121665n) * power(121666n, P - 2n)) % P;
  const root = squareRoot((1n + d) % P);
  const inverse = power(d, P - 2n);
  const candidates = [root, P - root].map((r) => (((P - 1n + r) % P) * inverse) % P);
  const y = candidates.map(squareRoot).find((r) => r >= 0n) ?? -1n;
  return [0n, 1n, P - 1n, y, P - y];
}

/** A square root modulo P, or -1. */
function squareRoot(square: bigint): bigint {
  const half = power(2n, (P - 1n) / 4n);
  const root = power(square, (P + 3n) / 8n);
  for (const candidate of [root, (root * half) % P]) {
    if ((candidate * candidate) % P === square) return candidate;
  }
  return -1n;
}

function littleEndian(value: bigint): Buffer {
  return Buffer.from(value.toString(16).padStart(64, "0"), "hex").reverse();
}
