import { generateKeyPairSync } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type CastoreProcess, startCastore } from "./support/castore-process.ts";

interface Vectors {
  readonly nars: Record<string, { readonly hex: string; readonly nar_hash_nixbase32: string }>;
  readonly nar_bridge: Record<string, string> & {
    readonly requests: readonly (readonly [string, string, string])[];
  };
}

const vectorsPath = new URL("vectors/snix-castore.json", import.meta.url);
const { nars, nar_bridge: narBridge }: Vectors = JSON.parse(readFileSync(vectorsPath, "utf8"));

const directory = mkdtempSync(join(tmpdir(), "castore-requests-"));
let server: CastoreProcess;
beforeAll(async () => {
  const key = join(directory, "key");
  writeFileSync(key, newSigningKey());
  const store = join(directory, "store");
  server = await startCastore("serve", ["--store", store, "--signing-key", key]);
  await ask("PUT", `/nar/${SYMLINK_HASH}.nar`, narOf("SYMLINK"));
});
afterAll(async () => {
  await server.stop();
  rmSync(directory, { recursive: true });
});

/** Unsigned narinfos are refused without one. */
function newSigningKey(): string {
  const { d = "", x = "" } = generateKeyPairSync("ed25519").privateKey.export({ format: "jwk" });
  const bytes = [d, x].map((part) => Buffer.from(part, "base64url"));
  return `test-1:${Buffer.concat(bytes).toString("base64")}`;
}

async function ask(
  method: string,
  path: string,
  body?: Uint8Array | string,
  headers: Record<string, string> = {},
): Promise<Response> {
  const init = { method, headers, ...(body === undefined ? {} : { body: Buffer.from(body) }) };
  return await fetch(server.url + path, init);
}

const narOf = (name: string) => Buffer.from(nars[name]?.hex ?? "", "hex");
const hashOf = (name: string) => nars[name]?.nar_hash_nixbase32 ?? "";
const SYMLINK_HASH = hashOf("SYMLINK");
const NAR = `/nar/snix-castore/GhoSGC9uaXgvc3RvcmUvc29tZXdoZXJlZWxzZQ`;
const UNKNOWN = "1".repeat(52);
const ZERO = "0".repeat(32);
const narInfo = narBridge.put_narinfo_nix_like_PATH_INFO_SYMLINK ?? "";
const other = (text: string) => text.replace(/(hash:|NarHash: sha256:).*/i, `$1${UNKNOWN}`);

/** How each request of the vectors is made; several where one line stands for several. */
const REQUESTS: Record<string, () => Promise<Response>[]> = {
  "GET /": () => [ask("GET", "/")],
  "GET /nix-cache-info": () => [ask("GET", "/nix-cache-info")],
  "GET /nar/<anything>": () => [ask("GET", `/nar/${UNKNOWN}.nar`), ask("GET", "/nar/x")],
  "HEAD /nar/<52>.nar (uploaded since start, in LRU)": () => [
    ask("HEAD", `/nar/${SYMLINK_HASH}.nar`),
  ],
  "HEAD /nar/<52>.nar unknown": () => [ask("HEAD", `/nar/${UNKNOWN}.nar`)],
  "HEAD /nar/<52>.nar.zst": () => [ask("HEAD", `/nar/${UNKNOWN}.nar.zst`)],
  "HEAD /nar/garbage": () => [ask("HEAD", "/nar/garbage")],
  "PUT /nar/<52>.nar wrong hash": () => [ask("PUT", `/nar/${UNKNOWN}.nar`, narOf("SYMLINK"))],
  "PUT /nar/<52>.nar.zst": () => [ask("PUT", `/nar/${SYMLINK_HASH}.nar.zst`, narOf("SYMLINK"))],
  "PUT /nar/<52>.nar bad NAR": () => [ask("PUT", `/nar/${UNKNOWN}.nar`, "no NAR")],
  "PUT /nar/<52>.nar ok": () => [
    ask("PUT", `/nar/${hashOf("HELLOWORLD")}.nar`, narOf("HELLOWORLD")),
  ],
  "HEAD|GET /nar/snix-castore/<b64> no narsize": () => [ask("HEAD", NAR), ask("GET", NAR)],
  "HEAD|GET /nar/snix-castore/<bad b64 or bad node>?narsize=1": () =>
    ["!", "AA", "GhoSGC9uaXgvc3RvcmUvc29tZXdoZXJlZWxzZ", "x".repeat(5_463)].flatMap((entry) => [
      ask("HEAD", `/nar/snix-castore/${entry}?narsize=1`),
      ask("GET", `/nar/snix-castore/${entry}?narsize=1`),
    ]),
  "HEAD /nar/snix-castore/<ok>?narsize=N": () => [ask("HEAD", `${NAR}?narsize=136`)],
  "GET /nar/snix-castore/<ok>?narsize=N": () => [ask("GET", `${NAR}?narsize=136`)],
  "GET + Range /nar/snix-castore/<ok>?narsize=N": () => [
    ask("GET", `${NAR}?narsize=136`, undefined, { range: "bytes=1-9" }),
  ],
  "GET|HEAD /<32>.narinfo|.ls unknown": () =>
    ["narinfo", "ls"].flatMap((kind) => [
      ask("GET", `/${"1".repeat(32)}.${kind}`),
      ask("HEAD", `/${"1".repeat(32)}.${kind}`),
    ]),
  "GET|HEAD|PUT /<garbage>": () => ["GET", "HEAD", "PUT"].map((method) => ask(method, "/garbage")),
  "PUT /<32>.ls": () => [ask("PUT", `/${ZERO}.ls`, narBridge.get_ls_PATH_INFO_SYMLINK)],
  "PUT /<32>.narinfo with unknown NarHash": () => [ask("PUT", `/${ZERO}.narinfo`, other(narInfo))],
  "PUT /<32>.narinfo digest != StorePath digest": () => [
    ask("PUT", `/${"1".repeat(32)}.narinfo`, narInfo),
  ],
  "PUT /<32>.narinfo unparsable / non-utf8 / > 2 MiB": () =>
    ["junk", Buffer.from([0xff, 0xfe]), `${narInfo}X: ${"x".repeat(2 << 20)}\n`].map((body) =>
      ask("PUT", `/${ZERO}.narinfo`, body),
    ),
  "PUT /<32>.narinfo ok": () => [ask("PUT", `/${ZERO}.narinfo`, narInfo)],
};

/** Where castore answers otherwise than snix, on purpose. */
const DIFFERENT: Record<string, { readonly statuses: readonly number[]; readonly why: string }> = {
  "HEAD /nar/<52>.nar.zst": {
    statuses: [404],
    why: "compressed NARs are taken, so this one is merely not there",
  },
  "HEAD /nar/garbage": { statuses: [404], why: "it is not there; nobody need authenticate" },
  "PUT /nar/<52>.nar wrong hash": {
    statuses: [200, 400],
    why: "a file's name proves nothing: the narinfo that follows does, and is refused",
  },
  "PUT /nar/<52>.nar.zst": { statuses: [400], why: "taken, but these bytes are no zstd" },
  "PUT /nar/<52>.nar bad NAR": { statuses: [400], why: "the client is at fault" },
  "PUT /<32>.narinfo unparsable / non-utf8 / > 2 MiB": {
    statuses: [400, 413],
    why: "too large is not malformed",
  },
};

test.each(narBridge.requests)("%s %s: snix answers %s", async (method, path, expected) => {
  const make = REQUESTS[`${method} ${path}`];
  if (make === undefined) throw new Error(`no request for ${method} ${path}`);
  const different = DIFFERENT[`${method} ${path}`];
  for (const response of await Promise.all(make())) {
    const statuses = different?.statuses ?? [Number.parseInt(expected, 10)];
    expect(statuses, different?.why).toContain(response.status);
    const type = /[a-z]+\/[a-z-]+/.exec(expected)?.[0];
    if (type !== undefined) expect(response.headers.get("content-type")).toBe(type);
  }
});

test("a range of a NAR is served as snix serves it", async () => {
  const url = `${NAR}?narsize=136`;
  const bytes = narOf("SYMLINK");
  const range = async (text: string) => {
    const response = await ask("GET", url, undefined, { range: `bytes=${text}` });
    return [response.status, Buffer.from(await response.arrayBuffer()).toString("hex")];
  };
  expect(await range("1-9")).toEqual([206, bytes.subarray(1, 10).toString("hex")]);
  expect(await range("100-")).toEqual([206, bytes.subarray(100).toString("hex")]);
  expect(await range("-36")).toEqual([206, bytes.subarray(100).toString("hex")]);
  expect((await range("136-"))[0]).toBe(416);
  expect((await range("-0"))[0]).toBe(416);
  const wrong = await ask("GET", `${NAR}?narsize=137`, undefined, { range: "bytes=0-1" });
  expect(wrong.status).toBe(400);
});
