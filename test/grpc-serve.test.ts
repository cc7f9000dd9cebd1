import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  createGrpcBlobService,
  createGrpcDirectoryService,
  decodeDirectory,
  digestOf,
  encodeDirectory,
  type GrpcChannel,
  openGrpcChannel,
  parseBlobServiceUrl,
} from "@castore/castore";
import {
  createGrpcPathInfoService,
  decodePathInfo,
  nixHashBytes,
  parseStoreHash,
} from "@castore/nar-bridge";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type CastoreProcess, startCastore } from "./support/castore-process.ts";

interface Vectors {
  readonly nars: Record<string, { readonly len: number; readonly sha256: string }>;
  readonly directories: Record<string, { readonly rust: { readonly proto_hex: string } }>;
  readonly pathinfos: Record<string, { readonly proto_hex: string }>;
}

const vectorsPath = new URL("vectors/snix-castore.json", import.meta.url);
const vectors: Vectors = JSON.parse(readFileSync(vectorsPath, "utf8"));
const directory = mkdtempSync(join(tmpdir(), "castore-grpc-serve-"));
const socket = join(directory, "grpc");
let server: CastoreProcess;
let channel: GrpcChannel;

beforeAll(async () => {
  const store = join(directory, "store");
  server = await startCastore("serve", ["--store", store, "--grpc-listen", `unix:${socket}`]);
  expect(server.stderr).toContain(`gRPC on grpc+unix:${socket}`);
  const url = parseBlobServiceUrl(`grpc+unix:${socket}?wait-connect=1`);
  if (url.type !== "grpc") throw new Error("unreachable");
  channel = await openGrpcChannel(url.address);
});
afterAll(async () => {
  await channel.close();
  await server.stop();
  rmSync(directory, { recursive: true });
});

test("a tree put over gRPC has the NAR that snix calculates", async () => {
  const [keep, root] = ["DIRECTORY_WITH_KEEP", "DIRECTORY_COMPLICATED"].map((name) =>
    decodeDirectory(Buffer.from(vectors.directories[name]?.rust.proto_hex ?? "", "hex")),
  );
  if (keep === undefined || root === undefined) throw new Error("the vectors lack a directory");
  const pathInfos = createGrpcPathInfoService(channel);
  const node = { type: "directory", digest: digestOf(encodeDirectory(root)), size: 8 } as const;
  await expect(pathInfos.calculateNar(node)).rejects.toHaveProperty("code", "INCOMPLETE");
  await createGrpcBlobService(channel).put([]);
  await createGrpcDirectoryService(channel).putClosure([keep, root]);
  const { narSize, narHash } = await pathInfos.calculateNar(node);
  expect(narSize).toBe(vectors.nars.COMPLICATED?.len);
  expect(nixHashBytes(narHash).toString("hex")).toBe(vectors.nars.COMPLICATED?.sha256);
});

test("a path info put over gRPC is checked, listed, and served as a narinfo", async () => {
  const hex = vectors.pathinfos.PATH_INFO_SYMLINK?.proto_hex ?? "";
  const pathInfo = decodePathInfo(Buffer.from(hex, "hex"));
  const service = createGrpcPathInfoService(channel);
  const wrong = service.put({ ...pathInfo, narSize: pathInfo.narSize + 1 });
  await expect(wrong).rejects.toHaveProperty("code", "CORRUPT");
  const storeHash = parseStoreHash("0".repeat(32));
  expect(await service.get(storeHash)).toBeUndefined();
  await service.put(pathInfo);
  expect(await service.get(storeHash)).toEqual(pathInfo);
  const listed: unknown[] = [];
  for await (const it of service.list()) listed.push(it);
  expect(listed).toEqual([pathInfo]);
  const narInfo = await fetch(`${server.url}/${storeHash}.narinfo`);
  expect(await narInfo.text()).toContain(
    "URL: nar/snix-castore/GhoSGC9uaXgvc3RvcmUvc29tZXdoZXJlZWxzZQ",
  );
});
