import {
  CastoreError,
  createGrpcServer,
  grpcStatusName,
  type Node,
  openGrpcChannel,
  parseBlobServiceUrl,
} from "@castore/castore";
import protobuf from "protobufjs";
import { afterEach, describe, expect, test } from "vitest";
import { parseStoreHash, storeHashBytes, storePathHash } from "../src/nix/store-path.ts";
import { createPathInfoGrpcService } from "../src/path-infos/grpc-path-info-handlers.ts";
import {
  calculateNarMethod,
  pathInfoGetMethod,
  pathInfoListMethod,
  pathInfoPutMethod,
} from "../src/path-infos/grpc-path-info-methods.ts";
import { createGrpcPathInfoService } from "../src/path-infos/grpc-path-info-service.ts";
import type { NarSummary } from "../src/path-infos/local-path-info-service.ts";
import { decodePathInfo, encodePathInfo } from "../src/path-infos/path-info-codec.ts";
import {
  createMemoryPathInfoService,
  type PathInfoService,
} from "../src/path-infos/path-info-service.ts";
import { describePathInfoService, samplePathInfo } from "./path-info-service-suite.ts";

const closers: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

const noNar = () => Promise.reject(new CastoreError("INCOMPLETE", "a blob is missing"));

async function open(
  pathInfos: PathInfoService = createMemoryPathInfoService(),
  calculateNar: (node: Node) => Promise<NarSummary> = noNar,
) {
  const services = [createPathInfoGrpcService({ pathInfos, calculateNar })];
  const server = createGrpcServer({ services });
  const port = await server.listen("127.0.0.1:0");
  const url = parseBlobServiceUrl(`grpc+http://127.0.0.1:${port}`);
  if (url.type !== "grpc") throw new Error("unreachable");
  const channel = await openGrpcChannel(url.address);
  const close = async () => {
    await channel.close();
    await server.close(0);
  };
  return { channel, service: createGrpcPathInfoService(channel), close };
}

async function openHere(...args: Parameters<typeof open>) {
  const pair = await open(...args);
  closers.push(pair.close);
  return pair;
}

describePathInfoService("gRPC", () => open(), { noRootSignatures: true });

async function statusOf(promise: Promise<unknown>) {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof CastoreError)) throw new Error(`no CastoreError: ${error}`);
  const { code, details } = Object(error.cause);
  return { status: grpcStatusName(code), details, code: error.code };
}

describe("statuses", () => {
  const pathInfo = samplePathInfo("1-a");
  const hash = storeHashBytes(storePathHash(pathInfo.storePath));

  test("Get: no hash, a wrong hash, an absent path info", async () => {
    const { channel } = await openHere();
    const get = (request: Uint8Array | undefined) =>
      statusOf(channel.unary(pathInfoGetMethod, request));
    expect(await get(undefined)).toMatchObject({ status: "UNIMPLEMENTED" });
    expect(await get(hash.subarray(1))).toMatchObject({ status: "INVALID_ARGUMENT" });
    expect(await get(hash)).toMatchObject({
      status: "NOT_FOUND",
      details: "PathInfo not found",
    });
  });

  test("Put: what is invalid says by which rule", async () => {
    const { channel } = await openHere();
    const empty = channel.unary(pathInfoPutMethod, Buffer.alloc(0));
    expect(await statusOf(empty)).toEqual({
      status: "INVALID_ARGUMENT",
      details: expect.stringMatching(/^Invalid path info: .*NarInfoFieldMissing/),
      code: "INVALID",
    });
  });

  test("a backend that fails is UNKNOWN, in a list INTERNAL, and keeps its code", async () => {
    const fail = () => Promise.reject(new CastoreError("EXHAUSTED", "the disk is full"));
    const { channel } = await openHere({
      get: fail,
      put: fail,
      async *list() {
        yield pathInfo;
        throw new CastoreError("UNSUPPORTED", "list not supported");
      },
    });
    const full = { status: "UNKNOWN", code: "EXHAUSTED", details: "the disk is full" };
    expect(await statusOf(channel.unary(pathInfoGetMethod, hash))).toEqual(full);
    const put = channel.unary(pathInfoPutMethod, Buffer.from(encodePathInfo(pathInfo)));
    expect(await statusOf(put)).toEqual(full);
    const seen: Uint8Array[] = [];
    const list = async () => {
      for await (const it of channel.receive(pathInfoListMethod, Buffer.alloc(0))) seen.push(it);
    };
    expect(await statusOf(list())).toMatchObject({ status: "INTERNAL", code: "UNSUPPORTED" });
    expect(seen).toHaveLength(1);
  });

  test("CalculateNAR: a named entry, a missing blob, and an answer", async () => {
    const asked: Node[] = [];
    const { narHash, node } = pathInfo;
    const { channel, service } = await openHere(undefined, async (root) => {
      asked.push(root);
      if (asked.length > 1) return await noNar();
      return { narSize: 136, narHash };
    });
    expect(await service.calculateNar(node)).toEqual({ narSize: 136, narHash });
    expect(asked).toEqual([node]);
    const missing = statusOf(service.calculateNar(node));
    expect(await missing).toMatchObject({ status: "UNKNOWN", code: "INCOMPLETE" });
    const bad = ["1a050a0161120174", "", "ff"].map((hex) => Buffer.from(hex, "hex"));
    for (const entry of bad) {
      const calculation = statusOf(channel.unary(calculateNarMethod, entry));
      expect(await calculation).toMatchObject({
        status: "INVALID_ARGUMENT",
        details: "invalid root node",
      });
    }
  });
});

test("a path info of another path than the one asked for is CORRUPT", async () => {
  const other = samplePathInfo("1-a");
  const { service } = await openHere({
    ...createMemoryPathInfoService(),
    get: async () => other,
  });
  const get = service.get(parseStoreHash("0".repeat(32)));
  await expect(get).rejects.toHaveProperty("code", "CORRUPT");
});

test("what is written agrees with proto/ as protobufjs reads it", () => {
  const path = new URL("../../../proto/rpc_pathinfo.proto", import.meta.url).pathname;
  const root = new protobuf.Root().loadSync(path);
  const pathInfo = samplePathInfo("1-a");
  const message = root.lookupType("snix.store.v1.PathInfo").decode(encodePathInfo(pathInfo));
  const reencoded = root.lookupType("snix.store.v1.PathInfo").encode(message).finish();
  expect(decodePathInfo(reencoded)).toEqual(pathInfo);
  const hash = storeHashBytes(storePathHash(pathInfo.storePath));
  const get = root.lookupType("snix.store.v1.GetPathInfoRequest");
  expect(get.encode({ byOutputHash: hash }).finish()).toEqual(
    pathInfoGetMethod.request.encode(hash),
  );
  const response = root.lookupType("snix.store.v1.CalculateNARResponse");
  const summary = { narSize: 2 ** 40 + 1, narSha256: Buffer.alloc(32, 7) };
  const encoded = calculateNarMethod.response.encode(summary);
  expect(response.decode(encoded)).toMatchObject({ narSha256: summary.narSha256 });
  expect(String(Object(response.decode(encoded)).narSize)).toBe(String(summary.narSize));
});
