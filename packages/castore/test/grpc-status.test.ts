import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { status } from "@grpc/grpc-js";
import { afterEach, describe, expect, test } from "vitest";
import { CASTORE_ERROR_CODES, CastoreError, isCastoreError } from "../src/castore-error.ts";
import { createBlobGrpcService } from "../src/grpc/grpc-blob-handlers.ts";
import { blobPutMethod, blobReadMethod, blobStatMethod } from "../src/grpc/grpc-blob-methods.ts";
import { createGrpcBlobService } from "../src/grpc/grpc-blob-service.ts";
import { createDirectoryGrpcService } from "../src/grpc/grpc-directory-handlers.ts";
import { directoryGetMethod, directoryPutMethod } from "../src/grpc/grpc-directory-methods.ts";
import { unaryMethod } from "../src/grpc/grpc-handler.ts";
import { healthCheckMethod, healthWatchMethod, SERVING_STATUS } from "../src/grpc/grpc-health.ts";
import { createGrpcServer } from "../src/grpc/grpc-server.ts";
import { GrpcStatusError, grpcStatusOf } from "../src/grpc/grpc-status.ts";
import { byteStringOfText } from "../src/model/byte-string.ts";
import { digestBytes, digestOf, EMPTY_DIGEST, formatDigestText } from "../src/model/digest.ts";
import { directoryOf } from "../src/model/directory.ts";
import { pathComponentOfText } from "../src/model/path-component.ts";
import { parseSymlinkTarget } from "../src/model/symlink-target.ts";
import { createMemoryBlobService } from "../src/services/memory-blob-service.ts";
import { createMemoryDirectoryService } from "../src/services/memory-directory-service.ts";
import { collect, expectStatus, type GrpcPair, openGrpcPair } from "./grpc-fixture.ts";
import { blobVector } from "./vectors.ts";

const ABSENT = digestOf(Buffer.from("absent"));
const HELLO = blobVector("HELLOWORLD_BLOB");
const pairs: GrpcPair[] = [];
afterEach(async () => {
  for (const pair of pairs.splice(0)) await pair.close();
});

async function open(...args: Parameters<typeof openGrpcPair>): Promise<GrpcPair> {
  const pair = await openGrpcPair(...args);
  pairs.push(pair);
  return pair;
}

describe("statuses of the blob service", () => {
  const start = async () => {
    const blobs = createMemoryBlobService();
    await blobs.put([new Uint8Array(HELLO)]);
    return await open([createBlobGrpcService(blobs)]);
  };

  test("a digest of a wrong length is INVALID_ARGUMENT", async () => {
    const { channel } = await start();
    const stat = channel.unary(blobStatMethod, { digest: Buffer.alloc(31), sendChunks: true });
    await expectStatus(stat, status.INVALID_ARGUMENT, "invalid digest length");
    const read = collect(channel.receive(blobReadMethod, Buffer.alloc(0)));
    await expectStatus(read, status.INVALID_ARGUMENT, "invalid digest length");
  });

  test("an absent blob is NOT_FOUND, named in snix's way", async () => {
    const { channel } = await start();
    const text = `blob ${formatDigestText(ABSENT)} not found`;
    const digest = digestBytes(ABSENT);
    const stat = channel.unary(blobStatMethod, { digest, sendChunks: false });
    await expectStatus(stat, status.NOT_FOUND, text);
    await expectStatus(collect(channel.receive(blobReadMethod, digest)), status.NOT_FOUND, text);
  });

  test("an empty stream puts the empty blob, which reads as no bytes", async () => {
    const { channel } = await start();
    expect(await channel.send(blobPutMethod, [])).toBe(EMPTY_DIGEST);
    const read = await collect(channel.receive(blobReadMethod, digestBytes(EMPTY_DIGEST)));
    expect(Buffer.concat(read)).toHaveLength(0);
  });

  test("a put that fails is INTERNAL, and the exact code comes beside it", async () => {
    const blobs = createMemoryBlobService({ bytesMax: 3 });
    const { channel } = await open([createBlobGrpcService(blobs)]);
    const put = channel.send(blobPutMethod, [HELLO]);
    await expectStatus(put, status.INTERNAL, "error copying: ");
    await expect(put).rejects.toHaveProperty("code", "EXHAUSTED");
  });
});

describe("statuses of the directory service", () => {
  const start = () => open([createDirectoryGrpcService(createMemoryDirectoryService())]);
  const symlink = { type: "symlink", target: parseSymlinkTarget(byteStringOfText("t")) } as const;
  const leaf = directoryOf([{ name: pathComponentOfText("l"), node: symlink }]);

  test("a request without a digest, or with a wrong one, is INVALID_ARGUMENT", async () => {
    const { channel } = await start();
    const get = (digest: Uint8Array | undefined) =>
      collect(channel.receive(directoryGetMethod, { digest, recursive: true }));
    await expectStatus(get(undefined), status.INVALID_ARGUMENT, "invalid by_what");
    await expectStatus(get(Buffer.alloc(33)), status.INVALID_ARGUMENT, "invalid digest length");
    await expectStatus(get(Buffer.alloc(0)), status.INVALID_ARGUMENT, "invalid digest length");
  });

  test("an absent directory is NOT_FOUND, but an empty stream when asked recursively", async () => {
    const { channel } = await start();
    const digest = digestBytes(ABSENT);
    const get = (recursive: boolean) =>
      collect(channel.receive(directoryGetMethod, { digest, recursive }));
    await expectStatus(get(false), status.NOT_FOUND, `directory ${formatDigestText(ABSENT)}`);
    expect(await get(true)).toEqual([]);
  });

  test("a put of nothing, or of what is no closure, is INTERNAL", async () => {
    const { channel } = await start();
    const nothing = channel.send(directoryPutMethod, []);
    await expectStatus(nothing, status.INTERNAL, "no directories received");
    const two = channel.send(directoryPutMethod, [directoryOf([]), leaf]);
    await expectStatus(two, status.INTERNAL, "want one root");
  });
});

describe("the error table", () => {
  test.each(CASTORE_ERROR_CODES)("%s comes back as itself", async (code) => {
    const fail = async () => {
      throw new CastoreError(code, "it failed");
    };
    const method = { ...blobStatMethod, path: "/t/T" };
    const { channel } = await open([{ name: "t", methods: [unaryMethod(method, fail)] }]);
    const call = channel.unary(method, { digest: Buffer.alloc(32), sendChunks: false });
    await expect(call).rejects.toSatisfy((error) => isCastoreError(error, code));
    await expect(call).rejects.toThrow(/^grpc\+http:\/\/127.0.0.1:\d+\/t\/T: [A-Z_]+ it failed$/);
  });

  test("a bug is INTERNAL, says nothing outside and is told to onError", async () => {
    const bug = new TypeError("secret detail");
    const method = { ...blobStatMethod, path: "/t/T" };
    const methods = [unaryMethod(method, () => Promise.reject(bug))];
    const { channel, errors } = await open([{ name: "t", methods }]);
    const call = channel.unary(method, { digest: Buffer.alloc(32), sendChunks: false });
    await expectStatus(call, status.INTERNAL, "internal error");
    expect(errors).toEqual([bug]);
  });

  test("every code and every status of another server has its place", async () => {
    const codes = CASTORE_ERROR_CODES.map((code) => grpcStatusOf(new CastoreError(code, "")).code);
    expect(codes).toEqual([3, 15, 9, 14, 7, 8, 7, 12, 9]);
    const method = { ...blobStatMethod, path: "/t/T" };
    const answer: { code: status } = { code: status.OK };
    const methods = [
      unaryMethod(method, async () => {
        throw new GrpcStatusError(answer.code, "");
      }),
    ];
    const { channel } = await open([{ name: "t", methods }]);
    const seen: Record<string, string> = {};
    for (let code = 1; code <= 16; code++) {
      answer.code = code;
      const call = channel.unary(method, { digest: Buffer.alloc(32), sendChunks: false });
      seen[status[code] ?? ""] = await call.then(
        () => "OK",
        (error) => error.code,
      );
    }
    expect(seen).toEqual({
      CANCELLED: "UNAVAILABLE",
      UNKNOWN: "UNAVAILABLE",
      INVALID_ARGUMENT: "INVALID",
      DEADLINE_EXCEEDED: "UNAVAILABLE",
      NOT_FOUND: "INCOMPLETE",
      ALREADY_EXISTS: "INVALID",
      PERMISSION_DENIED: "DENIED",
      RESOURCE_EXHAUSTED: "EXHAUSTED",
      FAILED_PRECONDITION: "INCOMPLETE",
      ABORTED: "UNAVAILABLE",
      OUT_OF_RANGE: "CORRUPT",
      UNIMPLEMENTED: "UNSUPPORTED",
      INTERNAL: "UNAVAILABLE",
      UNAVAILABLE: "UNAVAILABLE",
      DATA_LOSS: "CORRUPT",
      UNAUTHENTICATED: "DENIED",
    });
  });

  test("a service that the server does not have is UNSUPPORTED", async () => {
    const { channel } = await open([]);
    const has = createGrpcBlobService(channel).has(ABSENT);
    await expect(has).rejects.toHaveProperty("code", "UNSUPPORTED");
  });
});

describe("the health service", () => {
  test("knows the server, its services and no others", async () => {
    const { channel } = await open([createBlobGrpcService(createMemoryBlobService())]);
    const check = (name: string) => channel.unary(healthCheckMethod, name);
    expect(await check("")).toBe(SERVING_STATUS.SERVING);
    expect(await check("snix.castore.v1.BlobService")).toBe(SERVING_STATUS.SERVING);
    await expectStatus(check("other"), status.NOT_FOUND, '"other"');
  });

  test("a watcher hears that the server closes", async () => {
    const { server, channel } = await open([]);
    const states: number[] = [];
    for await (const state of channel.receive(healthWatchMethod, "")) {
      states.push(state);
      if (state === SERVING_STATUS.SERVING) void server.close();
    }
    expect(states).toEqual([SERVING_STATUS.SERVING, SERVING_STATUS.NOT_SERVING]);
  });
});

describe("a unix socket", () => {
  test("left behind by a killed server is replaced, but not one that answers", async () => {
    const directory = await mkdtemp(join(tmpdir(), "castore-grpc-"));
    const path = join(directory, "socket");
    const script = `require("net").createServer().listen(${JSON.stringify(path)}, () =>
      process.kill(process.pid, "SIGKILL"))`;
    spawnSync(process.execPath, ["-e", script]);
    expect(existsSync(path)).toBe(true);
    await using server = createGrpcServer({ services: [] });
    expect(await server.listen(`unix:${path}`)).toBe(0);
    await using other = createGrpcServer({ services: [] });
    await expect(other.listen(`unix:${path}`)).rejects.toHaveProperty("code", "UNAVAILABLE");
    await server.close();
    expect(existsSync(path)).toBe(false);
    await rm(directory, { recursive: true });
  });
});
