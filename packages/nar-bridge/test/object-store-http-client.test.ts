import { createHash } from "node:crypto";
import { type ObjectStore, openS3ObjectStore } from "@castore/castore";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type S3Server, startS3Server } from "../../../test/support/s3-server.ts";
import { parseStoreHash } from "../src/nix/store-path.ts";
import { createHttpClient, type HttpClient } from "../src/upstream/http-client.ts";
import { openObjectStoreHttpClient } from "../src/upstream/object-store-http-client.ts";
import { createUpstream } from "../src/upstream/upstream.ts";

const HASH = "0".repeat(32);
const LARGE = Buffer.alloc(9_000_000, "large");
let server: S3Server;
let objects: ObjectStore;
let http: HttpClient;
let url: string;

beforeAll(async () => {
  server = await startS3Server();
  objects = openS3ObjectStore({
    bucket: server.bucket,
    prefix: "cache/",
    endpoint: new URL(server.url),
    pathStyle: true,
    region: "us-east-1",
    credentials: server,
  });
  await objects.put("nix-cache-info", Buffer.from("StoreDir: /nix/store\nPriority: 3\n"));
  await objects.put(`${HASH}.narinfo`, Buffer.from("text"));
  await objects.put("nar/1.nar.xz", LARGE);
  await objects.put("nar/empty", Buffer.alloc(0));
  const parameters = new URLSearchParams({
    endpoint: server.url,
    aws_access_key_id: server.accessKeyId,
    aws_secret_access_key: server.secretAccessKey,
    priority: "7",
    trusted: "1",
  });
  url = `s3://${server.bucket}/cache?${parameters}`;
  http = await openObjectStoreHttpClient(createHttpClient({ environment: {} }), [url]);
});
afterAll(async () => {
  await http.close();
  await objects.close();
  await server[Symbol.asyncDispose]();
});

async function bytesOf(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of source) pieces.push(piece);
  return Buffer.concat(pieces);
}

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

test("a bucket is an upstream like any other", async () => {
  const upstream = createUpstream({ http, url });
  expect(upstream.url.href).toBe(`s3://${server.bucket}/cache/`);
  expect(upstream.priority).toBe(7);
  expect((await upstream.cacheInfo()).priority).toBe(3);
  expect(await upstream.narInfoText(parseStoreHash(HASH))).toBe("text");
  expect(await upstream.get("absent.narinfo")).toBeUndefined();
  const nar = await bytesOf(upstream.openNar({ url: "nar/1.nar.xz" }));
  expect(sha256(nar)).toBe(sha256(LARGE));
  const rest = await bytesOf(upstream.openNar({ url: "nar/1.nar.xz" }, { from: 8_999_990 }));
  expect(rest.equals(LARGE.subarray(8_999_990))).toBe(true);
  const missing = bytesOf(upstream.openNar({ url: "nar/2.nar" }));
  await expect(missing).rejects.toMatchObject({ code: "INCOMPLETE" });
});

test("it answers as a static web server would", async () => {
  const policy = { base: new URL(`s3://${server.bucket}/cache/`) };
  const ask = async (key: string, request: object = {}) => {
    const answer = await http.request(new URL(key, policy.base), { policy, ...request });
    const body = await bytesOf(answer.body);
    return [answer.status, answer.headers["content-length"], body.byteLength];
  };
  expect(await ask("nix-cache-info")).toEqual([200, "33", 33]);
  expect(await ask("nix-cache-info", { method: "HEAD" })).toEqual([200, "33", 0]);
  expect(await ask("nix-cache-info", { headers: { range: "bytes=1-2" } })).toEqual([206, "2", 2]);
  expect(await ask("nar/empty")).toEqual([200, "0", 0]);
  expect(await ask("nar/1.nar.xz", { method: "HEAD" })).toEqual([200, "9000000", 0]);
  expect((await ask("nar/1.nar.xz", { headers: { range: "bytes=9000000-" } }))[0]).toBe(416);
  expect((await ask("absent"))[0]).toBe(404);
  expect((await ask("nar%2f1.nar.xz"))[0]).toBe(404);
  expect((await ask("nix-cache-info", { method: "POST" }))[0]).toBe(405);
});

test("nothing outside the named prefix of the named bucket is reached", async () => {
  const upstream = createUpstream({ http, url });
  await expect(upstream.get("../elsewhere")).rejects.toMatchObject({ code: "DENIED" });
  const other = bytesOf(upstream.openNar({ url: "s3://other-bucket/cache/x" }));
  await expect(other).rejects.toMatchObject({ code: "DENIED" });
  const base = new URL(`s3://${server.bucket}/other/`);
  const request = http.request(new URL("x", base), { policy: { base } });
  await expect(request).rejects.toMatchObject({ code: "DENIED" });
});

test("a profile that does not exist is said at once", async () => {
  const inner = createHttpClient({ environment: {} });
  const opening = openObjectStoreHttpClient(inner, ["s3://bucket?profile=no-such-profile"]);
  await expect(opening).rejects.toMatchObject({ code: "INVALID" });
  await inner.close();
});
