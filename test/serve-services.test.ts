import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  createGrpcBlobService,
  createGrpcDirectoryService,
  decodeDirectory,
  openGrpcChannel,
  parseBlobServiceUrl,
} from "@castore/castore";
import {
  createGrpcPathInfoService,
  decodePathInfo,
  narHashOf,
  type PathInfo,
} from "@castore/nar-bridge";
import { afterAll, beforeAll, expect, test } from "vitest";
import { runCastore, startCastore } from "./support/castore-process.ts";
import { type S3Server, startS3Server } from "./support/s3-server.ts";

interface Vectors {
  readonly nars: Record<
    string,
    { readonly hex: string; readonly sha256: string; readonly listing: string }
  >;
  readonly directories: Record<string, { readonly rust: { readonly proto_hex: string } }>;
  readonly pathinfos: Record<string, { readonly proto_hex: string }>;
}

const vectorsPath = new URL("vectors/snix-castore.json", import.meta.url);
const vectors: Vectors = JSON.parse(readFileSync(vectorsPath, "utf8"));
const nar = vectors.nars.COMPLICATED;
const bytes = Buffer.from(nar?.hex ?? "", "hex");

const directory = mkdtempSync(join(tmpdir(), "castore-services-"));
let s3: S3Server;
let bucket: string;
beforeAll(async () => {
  s3 = await startS3Server();
  const parameters = new URLSearchParams({
    endpoint: s3.url,
    aws_access_key_id: s3.accessKeyId,
    aws_secret_access_key: s3.secretAccessKey,
  });
  bucket = `s3://${s3.bucket}/store?${parameters}`;
});
afterAll(async () => {
  await s3[Symbol.asyncDispose]();
  rmSync(directory, { recursive: true });
});

/** Puts snix's DIRECTORY_COMPLICATED, with a path info that names it, into a gRPC server. */
async function fill(url: string): Promise<PathInfo> {
  const parsed = parseBlobServiceUrl(url);
  if (parsed.type !== "grpc") throw new Error(`${url} is no gRPC URL`);
  await using channel = await openGrpcChannel(parsed.address);
  await createGrpcBlobService(channel).put([]);
  const closure = ["DIRECTORY_WITH_KEEP", "DIRECTORY_COMPLICATED"].map((name) =>
    decodeDirectory(Buffer.from(vectors.directories[name]?.rust.proto_hex ?? "", "hex")),
  );
  const digest = await createGrpcDirectoryService(channel).putClosure(closure);
  const hex = vectors.pathinfos.PATH_INFO_SYMLINK?.proto_hex ?? "";
  return await createGrpcPathInfoService(channel).put({
    ...decodePathInfo(Buffer.from(hex, "hex")),
    node: { type: "directory", digest, size: 8 },
    narHash: narHashOf(Buffer.from(nar?.sha256 ?? "", "hex")),
    narSize: bytes.length,
  });
}

async function readNar(url: string): Promise<Buffer> {
  const narInfo = await (await fetch(`${url}/${"0".repeat(32)}.narinfo`)).text();
  const file = /^URL: (.*)$/m.exec(narInfo)?.[1];
  const response = await fetch(`${url}/${file}`);
  return Buffer.from(await response.arrayBuffer());
}

test("servers without a state of their own share a bucket", async () => {
  const socket = join(directory, "bucket.sock");
  const writer = ["--store", bucket, "--grpc-listen", `unix:${socket}`];
  await using first = await startCastore("serve", writer);
  await fill(`grpc+unix:${socket}`);
  await using second = await startCastore("serve", ["--store", bucket]);
  for (const { url } of [first, second]) {
    expect((await readNar(url)).equals(bytes)).toBe(true);
    const listing = await fetch(`${url}/${"0".repeat(32)}.ls`);
    expect(await listing.text()).toBe(nar?.listing);
    expect((await fetch(`${url}/${"1".repeat(32)}.narinfo`)).status).toBe(404);
    const put = await fetch(`${url}/nar/${"1".repeat(52)}.nar`, { method: "PUT", body: bytes });
    expect(put.status).toBe(405);
  }
  await first.stop();
  await second.stop();
});

test("a local store before another server goes on when that has gone", async () => {
  const socket = join(directory, "far.sock");
  const farStore = join(directory, "far");
  const far = await startCastore("serve", ["--store", farStore, "--grpc-listen", `unix:${socket}`]);
  await fill(`grpc+unix:${socket}`);
  const config = join(directory, "config.toml");
  const near = join(directory, "near");
  writeFileSync(config, `[serve]\nstore = "${near}"\nfar = "grpc+unix:${socket}"\n`);
  await using server = await startCastore("serve", ["--config", config]);
  // The path info stays with near only once its contents are there too, and checked.
  for (let i = 0; i < 2; i++) expect((await readNar(server.url)).equals(bytes)).toBe(true);
  await far.stop();
  expect((await readNar(server.url)).equals(bytes)).toBe(true);
  await server.stop();
});

test("keys for uploads make no sense without a local store", async () => {
  const key = join(directory, "key");
  writeFileSync(key, "k");
  const { code, stderr } = await runCastore(["serve", "--store", "memory:", "--signing-key", key]);
  expect(code).not.toBe(0);
  expect(stderr).toMatch(/uploads need a local store/);
});
