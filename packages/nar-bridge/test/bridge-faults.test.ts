import { createHash } from "node:crypto";
import { CastoreError, type LocalStore } from "@castore/castore";
import { afterEach, expect, test } from "vitest";
import { StandInCache } from "../../../test/support/stand-in-cache.ts";
import { nixHashOf } from "../src/nix/nix-hash.ts";
import { storePathHash } from "../src/nix/store-path.ts";
import { TAIL_BYTES } from "../src/substitution/nar-delivery.ts";
import { type Bridge, type BridgeOptions, startBridge } from "./bridge-fixture.ts";
import { directory, file } from "./nar-fixture.ts";
import { makePath, pathOfCa, publish, type TestPath } from "./path-fixture.ts";
import { raw } from "./raw-client.ts";

const opened: AsyncDisposable[] = [];
afterEach(async () => {
  for (const resource of opened.splice(0).reverse()) await resource[Symbol.asyncDispose]();
});

async function startCache(...paths: readonly TestPath[]): Promise<StandInCache> {
  const cache = await StandInCache.start();
  opened.push(cache);
  publish(cache, ...paths);
  return cache;
}

async function start(
  caches: readonly StandInCache[],
  options: Partial<BridgeOptions> = {},
): Promise<Bridge> {
  const bridge = await startBridge({ upstreams: caches.map(({ origin }) => origin), ...options });
  opened.push(bridge);
  return bridge;
}

/** Whether the path or its NAR is known in the bridge's store. */
async function isKept(bridge: Bridge, { narInfo }: TestPath): Promise<boolean> {
  await bridge.substituter[Symbol.asyncDispose]();
  const stored = await bridge.pathInfos.get(storePathHash(narInfo.storePath));
  return stored !== undefined || bridge.pathInfos.findNar(narInfo.narHash) !== undefined;
}

const CONTENTS = Buffer.alloc(1_000_003, "0123456789abcdefghijklmnopqrstuv");
for (let at = 0; at < CONTENTS.length; at += 997) CONTENTS[at] = at % 251;
const TREE = directory({ a: file(CONTENTS), b: file("b") });
/** Everything that may leaves at once, as with a NAR too large to be held back. */
const AT_ONCE = { holdMs: 0 };

test("a download cut in the middle resumes by Range, and the client notices nothing", async () => {
  const path = await makePath("cut", TREE);
  const cache = await startCache(path);
  cache.fail("nar", { kind: "cut", afterBytes: 400_000 }, 1);
  const bridge = await start([cache], { delivery: AT_ONCE });
  const answer = await raw(bridge.url + path.bridged);
  expect(answer.isWhole).toBe(true);
  expect(answer.body.equals(path.nar)).toBe(true);
  const requests = cache.seen("nar");
  expect(requests.length).toBe(2);
  expect(requests[1]?.headers.range).toBe("bytes=400000-");
  expect(requests[1]?.bytes).toBe(path.nar.byteLength - 400_000);
  expect(await isKept(bridge, path)).toBe(true);
});

test("cut by an upstream without ranges, it goes on with the next source", async () => {
  const path = await makePath("cut-no-ranges", TREE, { compression: "zstd" });
  const [first, second] = [await startCache(path), await startCache(path)];
  const headers = { "accept-ranges": undefined, etag: undefined };
  first.fail("nar", { kind: "headers", headers }, 0);
  first.objects.set(`/${path.narInfo.url}`, (_request, response) => {
    response.writeHead(200, { "content-length": path.file.byteLength });
    response.write(path.file.subarray(0, path.file.byteLength >> 1), () => response.destroy());
    return undefined;
  });
  const bridge = await start([first, second], { delivery: AT_ONCE });
  const answer = await raw(bridge.url + path.bridged);
  expect(answer.isWhole).toBe(true);
  expect(answer.body.equals(path.nar)).toBe(true);
  expect(second.seen("nar").length).toBe(1);
  expect(bridge.log.join("\n")).toContain(`plain way by ${first.origin}`);
});

test.each(["none", "xz", "zstd", "gzip", "br"] as const)(
  "of a NAR (%s) with a flipped bit nobody gets a complete 200",
  async (compression) => {
    const path = await makePath(`flip-${compression}`, TREE, { compression });
    const cache = await startCache(path);
    cache.fail("nar", { kind: "flip", atByte: path.file.byteLength >> 1 });
    const bridge = await start([cache], { delivery: AT_ONCE });
    const answer = await raw(bridge.url + path.bridged);
    expect(answer.status === 200 && answer.isWhole).toBe(false);
    expect(answer.body.byteLength).toBeLessThanOrEqual(path.nar.byteLength - TAIL_BYTES);
    expect(await isKept(bridge, path)).toBe(false);
  },
);

test("held back, a wrong NAR becomes a 404 and the next substituter's turn", async () => {
  const path = await makePath("flip-held", TREE);
  const cache = await startCache(path);
  cache.fail("nar", { kind: "flip", atByte: 100 });
  const bridge = await start([cache]);
  expect((await raw(bridge.url + path.bridged)).status).toBe(404);
  expect(bridge.log.join("\n")).toMatch(/its hash is sha256:/);
});

test("held back, a wrong NAR is replaced by the next source's", async () => {
  const path = await makePath("flip-replaced", TREE);
  const [wrong, good] = [await startCache(path), await startCache(path)];
  wrong.fail("nar", { kind: "flip", atByte: 100 });
  const bridge = await start([wrong, good]);
  expect((await raw(bridge.url + path.bridged)).body.equals(path.nar)).toBe(true);
  expect(await isKept(bridge, path)).toBe(true);
});

test("a source that was wrong is not asked for that path again", async () => {
  const path = await makePath("flip-remembered", TREE);
  const cache = await startCache(path);
  cache.fail("nar", { kind: "flip", atByte: 100 });
  const bridge = await start([cache]);
  expect((await raw(bridge.url + path.bridged)).status).toBe(404);
  expect((await raw(bridge.url + path.bridged)).status).toBe(404);
  expect(cache.seen("nar").length).toBe(1);
});

test("an upstream that stalls is left for the next source at the byte reached", async () => {
  const path = await makePath("stall", TREE);
  const [stalled, good] = [await startCache(path), await startCache(path)];
  stalled.fail("nar", { kind: "stall", afterBytes: 500_000 });
  const bridge = await start([stalled, good], { delivery: { ...AT_ONCE, stallMs: 300 } });
  const answer = await raw(bridge.url + path.bridged);
  expect(answer.isWhole).toBe(true);
  expect(answer.body.equals(path.nar)).toBe(true);
  await stalled.until(({ requests }) => requests.some(({ isAborted }) => isAborted));
});

test("with nobody left to go on, a stalled NAR's connection is cut", async () => {
  const path = await makePath("stall-alone", TREE);
  const cache = await startCache(path);
  cache.fail("nar", { kind: "stall", afterBytes: 500_000 });
  const bridge = await start([cache], { delivery: { ...AT_ONCE, stallMs: 300 } });
  const answer = await raw(bridge.url + path.bridged);
  expect(answer.status).toBe(200);
  expect(answer.isWhole).toBe(false);
  expect(bridge.log.join("\n")).toMatch(/no byte for 300 ms/);
});

test("a client waits no longer than its limit, however many sources there are", async () => {
  const path = await makePath("dribble", TREE);
  const caches = [await startCache(path), await startCache(path), await startCache(path)];
  for (const cache of caches) cache.fail("nar", { kind: "hang" });
  const delivery = { ...AT_ONCE, stallMs: 60_000, waitMs: 300 };
  const bridge = await start(caches, { delivery });
  expect((await raw(bridge.url + path.bridged)).status).toBe(404);
  const asked = caches.filter((cache) => cache.seen("nar").length > 0);
  expect(asked.length).toBe(1);
});

const NAR_STATUSES = [404, 410, 403, 401, 500, 503] as const;

test.each(NAR_STATUSES)("a NAR that upstream answers with %d is 404, never 5xx", async (status) => {
  const path = await makePath("nar-status", TREE);
  const cache = await startCache(path);
  cache.fail("nar", { kind: "status", status });
  const bridge = await start([cache], { delivery: { stallMs: 1_000 } });
  expect((await raw(bridge.url + path.bridged)).status).toBe(404);
  expect(bridge.log.join("\n")).toContain(`plain way by ${cache.origin}/: `);
});

test("a login page in place of a NAR is not passed on", async () => {
  const path = await makePath("portal", TREE);
  const [portal, good] = [await startCache(path), await startCache(path)];
  portal.fail("nar", { kind: "html" });
  const bridge = await start([portal, good], { delivery: AT_ONCE });
  expect((await raw(bridge.url + path.bridged)).body.equals(path.nar)).toBe(true);
});

test.each([-8, 8])("a NarSize that is off by %d makes no complete answer", async (delta) => {
  const right = await makePath("size", TREE);
  const change = { narSize: right.nar.byteLength + delta };
  const path = await makePath("size", TREE, { change });
  const bridge = await start([await startCache(path)], { delivery: AT_ONCE });
  const answer = await raw(bridge.url + path.bridged);
  expect(answer.status === 200 && answer.isWhole).toBe(false);
  expect(await isKept(bridge, path)).toBe(false);
});

test.each(["none", "xz", "zstd"] as const)(
  "bytes after the end of a NAR (%s) are refused",
  async (compression) => {
    const path = await makePath(`trailing-${compression}`, TREE, { compression });
    const longer = { ...path, file: Buffer.concat([path.file, Buffer.alloc(100, 1)]) };
    const bridge = await start([await startCache(longer)], { delivery: AT_ONCE });
    const answer = await raw(bridge.url + path.bridged);
    expect(answer.status === 200 && answer.isWhole).toBe(false);
  },
);

test("bytes with the right hash that are no NAR pass, but are not kept", async () => {
  const path = await makePath("no-nar", TREE, { nar: Buffer.alloc(200_000, 7) });
  const bridge = await start([await startCache(path)]);
  const answer = await raw(bridge.url + path.bridged);
  expect(answer.body.equals(path.nar)).toBe(true);
  expect(await isKept(bridge, path)).toBe(false);
  expect(bridge.log.join("\n")).toMatch(/not kept: .*NAR/);
});

test("an unknown compression is a 404 with a reason, and the next upstream's turn", async () => {
  const path = await makePath("lzip", TREE, { change: { compression: "lzip" } });
  const bridge = await start([await startCache(path)]);
  expect((await raw(bridge.url + path.bridged)).status).toBe(404);
  expect(bridge.log.join("\n")).toMatch(/lzip/);
});

test("a full disk costs the copy, not the client's NAR", async () => {
  const path = await makePath("full", TREE);
  const full = new CastoreError("EXHAUSTED", "no space left on device");
  const wrap = (store: LocalStore): LocalStore => ({
    ...store,
    blobsFor: (references) => ({
      ...store.blobsFor(references),
      put: () => Promise.reject(full),
    }),
  });
  const bridge = await start([await startCache(path)], { wrap });
  const answer = await raw(bridge.url + path.bridged);
  expect(answer.isWhole).toBe(true);
  expect(answer.body.equals(path.nar)).toBe(true);
  expect(await isKept(bridge, path)).toBe(false);
  expect(bridge.log.join("\n")).toMatch(/passed on, but not kept: no space left on device/);
});

function contentAddressed(name: string, contents: Buffer) {
  const hash = nixHashOf("sha256", createHash("sha256").update(contents).digest());
  const ca = { method: "flat", hash } as const;
  return { storePath: pathOfCa(name, ca), ca };
}

test("a path that only its CA vouches for is served and kept when its contents fit", async () => {
  const change = contentAddressed("ca-good", CONTENTS);
  const path = await makePath("ca-good", file(CONTENTS), { keys: [], change });
  const bridge = await start([await startCache(path)], { keys: [] });
  expect((await raw(bridge.url + path.bridged)).body.equals(path.nar)).toBe(true);
  expect(await isKept(bridge, path)).toBe(true);
});

test("contents other than those that CA names are refused", async () => {
  const change = contentAddressed("ca-bad", CONTENTS);
  const path = await makePath("ca-bad", file("evil"), { keys: [], change });
  const bridge = await start([await startCache(path)], { keys: [] });
  expect((await raw(bridge.url + path.bridged)).status).toBe(404);
  expect(await isKept(bridge, path)).toBe(false);
  const { signal } = new AbortController();
  const storeHash = storePathHash(path.narInfo.storePath);
  await expect(bridge.substituter.substitute(storeHash, { signal })).rejects.toThrow();
});

test("nor does a NAR that is in the store already pass for what another CA names", async () => {
  const change = contentAddressed("ca-known", CONTENTS);
  const honest = await makePath("honest", file("evil"));
  const path = await makePath("ca-known", file("evil"), { keys: [], change });
  const bridge = await start([await startCache(honest, path)]);
  await raw(bridge.url + honest.bridged);
  expect(await isKept(bridge, honest)).toBe(true);
  const { signal } = new AbortController();
  const storeHash = storePathHash(path.narInfo.storePath);
  await expect(bridge.substituter.substitute(storeHash, { signal })).rejects.toThrow();
  expect(await bridge.pathInfos.get(storeHash)).toBeUndefined();
});
