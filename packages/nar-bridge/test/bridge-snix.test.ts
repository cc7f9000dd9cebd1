import type { ChunkMeta, Directory } from "@castore/castore";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { startBridge } from "./bridge-fixture.ts";
import { closeAfterEach } from "./close-after-each.ts";
import { directory, file } from "./nar-fixture.ts";
import { makePath, type TestPath } from "./path-fixture.ts";
import { raw } from "./raw-client.ts";
import type { Serve } from "./serve-fixture.ts";
import {
  type ConnectionFault,
  changedReader,
  type ServiceFaults,
  type SnixCache,
  startSnixCache,
} from "./snix-fixture.ts";
import { makeProgram, NOISE } from "./upgrade-fixture.ts";

const use = closeAfterEach();

const PLAIN = /^GET \/nar\//;

test("directories and chunks come over gRPC from the origin of a snix cache", async () => {
  const [, one] = await makeProgram(1);
  const [shell, two] = await makeProgram(2, Buffer.from("a change in the middle"));
  if (one === undefined || two === undefined || shell === undefined) throw new Error("no program");
  const [first] = await makeProgram(1);
  if (first === undefined) throw new Error("no program");
  const cache = await use(startSnixCache([first, one, shell, two]));
  const bridge = await use(startBridge({ upstreams: [cache.url] }));
  expect((await raw(bridge.url + one.bridged)).body.equals(one.nar)).toBe(true);
  expect(cache.relay.seen(PLAIN)).toEqual([]);
  expect(await bridge.metric("castore_nars_total", { way: "grpc" })).toBe(1);
  await bridge.substituter[Symbol.asyncDispose]();
  const before = await bridge.metric("castore_chunk_bytes_total", { from: "remote" });
  expect((await raw(bridge.url + two.bridged)).body.equals(two.nar)).toBe(true);
  const missing = (await bridge.metric("castore_chunk_bytes_total", { from: "remote" })) - before;
  expect(missing).toBeLessThan(two.nar.byteLength / 2);
  expect(cache.relay.seen(PLAIN)).toEqual([]);
  expect(cache.connections).toBe(1);
});

test("a small NAR, and any with --upgrade never, is fetched without gRPC", async () => {
  const small = await makePath("small", file(NOISE.subarray(0, 60_000)));
  const big = await makePath("big", file(NOISE));
  const cache = await use(startSnixCache([small, big]));
  const bridge = await use(startBridge({ upstreams: [cache.url] }));
  expect((await raw(bridge.url + small.bridged)).body.equals(small.nar)).toBe(true);
  const never = await use(startBridge({ upstreams: [cache.url], upgrade: "never" }));
  expect((await raw(never.url + big.bridged)).body.equals(big.nar)).toBe(true);
  expect(cache.connections).toBe(0);
});

test("a path whose directories the server lacks comes plainly, and nobody is blamed", async () => {
  const path = await makePath("lost", directory({ big: file(NOISE) }));
  const cache = await use(startSnixCache([path]));
  cache.faults.getClosure = async function* () {};
  const bridge = await use(startBridge({ upstreams: [cache.url] }));
  expect((await raw(bridge.url + path.bridged)).body.equals(path.nar)).toBe(true);
  expect(cache.relay.seen(PLAIN).length).toBe(1);
  expect(bridge.log).toEqual([]);
});

test("castore/1 goes before gRPC, gRPC before the plain NAR", async () => {
  const [a, b, c] = await Promise.all(
    ["a", "b", "c"].map((name, i) => {
      return makePath(name, file(NOISE.subarray(i * 900_000, (i + 1) * 900_000)));
    }),
  );
  if (a === undefined || b === undefined || c === undefined) throw new Error("no paths");
  const cache = await use(startSnixCache([a, b, c], { upgrade: true }));
  const ways = async (path: TestPath) => {
    const bridge = await use(startBridge({ upstreams: [cache.url] }));
    expect((await raw(bridge.url + path.bridged)).body.equals(path.nar)).toBe(true);
    const names = ["castore", "grpc", "plain"] as const;
    return await Promise.all(names.map((way) => bridge.metric("castore_nars_total", { way })));
  };
  expect(await ways(a)).toEqual([1, 0, 0]);
  expect(cache.connections).toBe(0);
  cache.relay.faults.push([/castore\/fetch$/, { kind: "status", status: 500 }]);
  expect(await ways(b)).toEqual([0, 1, 0]);
  cache.fault = { kind: "plainHttp" };
  expect(await ways(c)).toEqual([0, 0, 1]);
});

const html = "text/html";
const CONNECTIONS: readonly (readonly [string, ConnectionFault])[] = [
  ["there is no gRPC", { kind: "plainHttp" }],
  ["the connection is reset", { kind: "reset" }],
  ["the connection is silent", { kind: "silent" }],
  ["gRPC is 404", { kind: "http2", status: 404, type: "text/plain" }],
  ["gRPC is 500", { kind: "http2", status: 500, type: "text/plain" }],
  ["gRPC is a login page", { kind: "http2", status: 200, type: html }],
  ["the connection is cut in a chunk", { kind: "cut", after: 400_000 }],
  ["the connection stalls in a chunk", { kind: "stall", after: 400_000 }],
];

const fails = (): never => {
  throw new Error("broken on purpose");
};
const hangs = () => new Promise<never>(() => {});

type FaultsOf = (store: Serve["store"]) => ServiceFaults;

function changed(change: (bytes: Buffer) => Buffer): FaultsOf {
  return ({ blobs }) => ({
    async open(digest, options) {
      const reader = await blobs.open(digest, options);
      return reader && changedReader(reader, change);
    },
  });
}

function chunksChanged(change: (chunks: ChunkMeta[]) => ChunkMeta[]): FaultsOf {
  return ({ blobs }) => ({
    async chunks(digest, options) {
      return change([...((await blobs.chunks(digest, options)) ?? [])]);
    },
  });
}

function closureChanged(change: (all: Directory[]) => Promise<Directory[]>): FaultsOf {
  return ({ directories }) => ({
    async *getClosure(root) {
      const all: Directory[] = [];
      for await (const directory of directories.getClosure(root)) all.push(directory);
      yield* await change(all);
    },
  });
}

function flipped(bytes: Buffer): Buffer {
  const at = bytes.byteLength >> 1;
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  return bytes;
}

/** Moves the end of the first chunk. */
function moved([first, second, ...rest]: ChunkMeta[]): ChunkMeta[] {
  if (first === undefined || second === undefined) return [];
  return [{ ...first, size: first.size + 1 }, { ...second, size: second.size - 1 }, ...rest];
}

const SERVICES: readonly (readonly [string, FaultsOf])[] = [
  ["directories fail", () => ({ getClosure: fails })],
  ["directories hang", closureChanged(hangs)],
  ["directories are cut", closureChanged(async (all) => all.slice(0, 1))],
  ["directories are others", closureChanged(async (all) => all.reverse())],
  ["chunk lists fail", () => ({ chunks: fails })],
  ["chunk lists hang", () => ({ chunks: hangs })],
  ["chunk lists are missing", () => ({ chunks: async () => undefined, noChunks: true })],
  ["chunk lists are too long", chunksChanged((chunks) => [...chunks, ...chunks])],
  ["chunk lists lie about where chunks end", chunksChanged(moved)],
  ["chunks fail", () => ({ open: fails })],
  ["chunks hang", () => ({ open: hangs })],
  ["chunks are missing", () => ({ open: async () => undefined, noChunks: true })],
  ["chunks are damaged", changed(flipped)],
  ["chunks are short", changed((bytes) => bytes.subarray(1))],
  ["chunks are long", changed((bytes) => Buffer.concat([bytes, bytes]))],
];

describe("with any fault of gRPC the plain NAR comes, and gRPC is left alone", () => {
  let cache: SnixCache;
  let first: TestPath;
  let second: TestPath;
  beforeAll(async () => {
    const tree = (at: number) =>
      directory({
        big: file(NOISE.subarray(at, at + 1_400_000)),
        sub: directory({ small: file(`small ${at}`) }),
      });
    first = await makePath("first", tree(0));
    second = await makePath("second", tree(1_500_000));
    cache = await startSnixCache([first, second]);
  });
  afterAll(() => cache[Symbol.asyncDispose]());
  afterEach(() => {
    cache.fault = undefined;
    cache.faults = {};
  });

  async function expectPlain(): Promise<void> {
    const delivery = { stallMs: 2_000 };
    const options = { upstreams: [cache.url], delivery, grpcConnectMs: 1_000 };
    const bridge = await use(startBridge(options));
    cache.relay.requests.length = 0;
    cache.calls.length = 0;
    const answer = await raw(bridge.url + first.bridged);
    expect(answer.isWhole).toBe(true);
    expect(answer.body.equals(first.nar)).toBe(true);
    expect(cache.relay.seen(PLAIN).length).toBe(1);
    const rests = bridge.log.filter((line) => /^gRPC at .* is left alone for/.test(line));
    expect(rests.length).toBe(1);
    const { connections } = cache;
    const calls = cache.calls.length;
    expect((await raw(bridge.url + second.bridged)).body.equals(second.nar)).toBe(true);
    expect([cache.connections, cache.calls.length]).toEqual([connections, calls]);
  }

  test.each(CONNECTIONS)("%s", async (_, fault) => {
    cache.fault = fault;
    await expectPlain();
  });

  test.each(SERVICES)("%s", async (_, faults) => {
    cache.faults = faults(cache.serve.store);
    await expectPlain();
    expect(cache.calls.length).toBeGreaterThan(0);
  });
});
