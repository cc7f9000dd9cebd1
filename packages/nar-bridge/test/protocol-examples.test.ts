import { createHash, createPrivateKey, createPublicKey } from "node:crypto";
import { digestOf } from "@castore/castore";
import { expect, test } from "vitest";
import { exampleLines, hexExample } from "../../../test/support/doc-examples.ts";
import { formatFingerprint } from "../src/nix/fingerprint.ts";
import { nixHashOf } from "../src/nix/nix-hash.ts";
import { signatureKeyName } from "../src/nix/signature.ts";
import { formatRootFingerprint, RootSigningKey, TrustedRootKeys } from "../src/nix/signed-root.ts";
import { TrustedKeys } from "../src/nix/trusted-keys.ts";
import {
  type ClosureRecord,
  decodeClosureStream,
  encodeClosureStream,
} from "../src/path-infos/closure-stream.ts";
import { decodeSignedPathInfo, encodeSignedPathInfo } from "../src/path-infos/path-info-codec.ts";
import { encodeNar, file, gather } from "./nar-fixture.ts";

const example = (name: string) => hexExample("protocol.md", name);

/** `NAME:BASE64` of the key whose seed is 32 times `byte`. */
function secretKeyText(name: string, byte: number): string {
  const seed = Buffer.alloc(32, byte);
  const key = Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]);
  const secret = createPrivateKey({ key, format: "der", type: "pkcs8" });
  const { x = "" } = createPublicKey(secret).export({ format: "jwk" });
  return `${name}:${Buffer.concat([seed, Buffer.from(x, "base64url")]).toString("base64")}`;
}

test("SignedPathInfo, and the signature of its root", () => {
  const pathInfo = decodeSignedPathInfo(example("SignedPathInfo"));
  const nar = encodeNar(file("Hello World!"));
  expect(pathInfo).toMatchObject({
    storePath: "0a8dmrps7qxa5g3r6xzmyanhhmdmi2cd-hello",
    node: { type: "file", digest: digestOf(Buffer.from("Hello World!")), size: 12 },
    narHash: nixHashOf("sha256", createHash("sha256").update(nar).digest()),
    narSize: nar.byteLength,
    references: ["wdfnp9wkk2rfmpz47zjd4p2ngbvz5smy-lib"],
  });
  expect(pathInfo.signatures.map(signatureKeyName)).toEqual(["cache-1"]);
  expect(encodeSignedPathInfo(pathInfo)).toEqual(example("SignedPathInfo"));
  const lines = exampleLines("protocol.md", "text root signature");
  const {
    text,
    key = "",
    signature,
  } = Object.fromEntries(lines.map((line) => line.split(/: (.*)/s)));
  expect(formatRootFingerprint(pathInfo, pathInfo.node)).toBe(text);
  expect(text).toContain(`;${formatFingerprint(pathInfo)};`);
  expect(pathInfo.rootSignatures).toEqual([signature]);
  expect(TrustedRootKeys.parse([key]).verify(pathInfo)?.text).toBe(key);
  // The one key is not the other, and neither does for the other's.
  expect(TrustedKeys.parse([key]).trusts(pathInfo)).toBeUndefined();
  const signing = RootSigningKey.parse(secretKeyText("root-1", 2));
  expect(signing.sign(pathInfo, pathInfo.node)).toBe(signature);
});

test("ClosureStream", async () => {
  const records: ClosureRecord[] = [];
  for await (const record of decodeClosureStream([example("ClosureStream")])) records.push(record);
  expect(records).toEqual([
    { kind: "absent", storeHash: "wdfnp9wkk2rfmpz47zjd4p2ngbvz5smy" },
    { kind: "leftOut", storeHash: "0a8dmrps7qxa5g3r6xzmyanhhmdmi2cd" },
  ]);
  const source = async function* () {
    yield* records;
  };
  expect(await gather(encodeClosureStream(source()))).toEqual(example("ClosureStream"));
});
