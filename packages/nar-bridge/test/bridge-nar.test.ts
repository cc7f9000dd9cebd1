import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { StandInCache } from "../../../test/support/stand-in-cache.ts";
import { COMPRESSIONS } from "../src/compression/compression.ts";
import { storePathHash } from "../src/nix/store-path.ts";
import { type Bridge, type BridgeOptions, startBridge } from "./bridge-fixture.ts";
import { directory, file } from "./nar-fixture.ts";
import { makePath, narInfoPath, publish, type TestPath } from "./path-fixture.ts";
import { open, raw } from "./raw-client.ts";

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

async function start(cache: StandInCache, options: Partial<BridgeOptions> = {}): Promise<Bridge> {
  const bridge = await startBridge({ upstreams: [cache.origin], ...options });
  opened.push(bridge);
  return bridge;
}

/** Text that compresses, with a length that is no multiple of anything. */
function text(seed: string, length: number): Buffer {
  let all = "";
  for (let line = 0; all.length < length; line++) all += `${seed} ${line * 7919} of ${line}\n`;
  return Buffer.from(all.slice(0, length));
}

const TREE = directory({
  bin: directory({ tool: file(text("tool", 700_001), true) }),
  empty: directory({}),
  link: { type: "symlink", target: "bin/tool" },
  readme: file("read me\n"),
});

test.each(COMPRESSIONS)("a NAR compressed by %s comes uncompressed", async (compression) => {
  const path = await makePath(`by-${compression}`, TREE, { compression });
  const bridge = await start(await startCache(path));
  const answer = await raw(bridge.url + path.bridged);
  expect(answer.status).toBe(200);
  expect(answer.isWhole).toBe(true);
  expect(answer.body.equals(path.nar)).toBe(true);
  expect(await bridge.metric("castore_nars_total", { way: "plain" })).toBe(1);
});

test("before it is proven a NAR has a length and nothing to resume by", async () => {
  const path = await makePath("provisional", TREE);
  const bridge = await start(await startCache(path));
  const { headers } = await raw(bridge.url + path.bridged, { headers: { range: "bytes=10-" } });
  expect(headers["content-type"]).toBe("application/x-nix-nar");
  expect(headers["content-length"]).toBe(String(path.nar.byteLength));
  expect(headers["accept-ranges"]).toBeUndefined();
  expect(headers["content-range"]).toBeUndefined();
  expect(headers.etag).toBeUndefined();
});

test("what is damaged in the store comes from the upstream again, and is healed", async () => {
  const path = await makePath("damaged", TREE);
  const bridge = await start(await startCache(path));
  const url = bridge.url + path.bridged;
  await raw(url);
  await bridge.substituter[Symbol.asyncDispose]();
  const { headers } = await raw(url);
  expect(headers.etag).toBeDefined();
  const blobs = join(bridge.store.path, "blobs");
  const files = readdirSync(blobs, { recursive: true, withFileTypes: true });
  for (const { parentPath, name } of files.filter((entry) => entry.isFile())) {
    const blob = join(parentPath, name);
    const bytes = readFileSync(blob);
    bytes[1000] = (bytes[1000] ?? 0) ^ 1;
    chmodSync(blob, 0o644);
    writeFileSync(blob, bytes);
  }
  expect((await bridge.store.check()).faultCount).toBe(1);
  // Its first part has left when the damage shows: the connection is cut.
  expect((await raw(url)).isWhole).toBe(false);
  expect(bridge.log.join("\n")).toMatch(/fsck --repair/);
  expect((await raw(url)).body.equals(path.nar)).toBe(true);
  const again = await raw(url);
  expect(again.headers.etag).toBe(headers.etag);
  expect(again.body.equals(path.nar)).toBe(true);
  expect((await bridge.store.check()).faultCount).toBe(0);
});

test("once it is proven it comes from the store, with ETag and ranges", async () => {
  const path = await makePath("proven", TREE);
  const cache = await startCache(path);
  const bridge = await start(cache);
  const url = bridge.url + path.bridged;
  await raw(url);
  cache.resetCounts();
  const whole = await raw(url);
  expect(whole.body.equals(path.nar)).toBe(true);
  expect(whole.headers["accept-ranges"]).toBe("bytes");
  const { etag = "" } = whole.headers;
  expect(etag).toMatch(/^"[^"]+"$/);
  const size = path.nar.byteLength;
  const part = await raw(url, { headers: { range: "bytes=1000-1999", "if-range": etag } });
  expect(part.status).toBe(206);
  expect(part.headers["content-range"]).toBe(`bytes 1000-1999/${size}`);
  expect(part.body.equals(path.nar.subarray(1000, 2000))).toBe(true);
  const rest = await raw(url, { headers: { range: `bytes=${size - 7}-` } });
  expect(rest.body.equals(path.nar.subarray(size - 7))).toBe(true);
  const changed = await raw(url, { headers: { range: "bytes=5-9", "if-range": '"other"' } });
  expect(changed.status).toBe(200);
  const beyond = await raw(url, { headers: { range: `bytes=${size}-` } });
  expect(beyond.status).toBe(416);
  expect(beyond.headers["content-range"]).toBe(`bytes */${size}`);
  expect(cache.requests).toEqual([]);
  expect(await bridge.metric("castore_nars_total", { way: "local" })).toBeGreaterThan(0);
});

test("a HEAD names the size and downloads nothing", async () => {
  const path = await makePath("head-nar", TREE);
  const cache = await startCache(path);
  const bridge = await start(cache);
  const head = await raw(bridge.url + path.bridged, { method: "HEAD" });
  expect(head.status).toBe(200);
  expect(head.headers["content-length"]).toBe(String(path.nar.byteLength));
  expect(cache.seen("nar")).toEqual([]);
});

test("a NAR's URL works after a restart with a lost store, without its narinfo asked", async () => {
  const path = await makePath("restarted", TREE, { compression: "zstd" });
  const cache = await startCache(path);
  const first = await start(cache);
  expect((await raw(first.url + narInfoPath(path))).status).toBe(200);
  await first[Symbol.asyncDispose]();
  opened.pop();
  const second = await start(cache);
  expect((await raw(second.url + path.bridged)).body.equals(path.nar)).toBe(true);
});

test("what was stored is there after a restart, and the upstream is not needed", async () => {
  const directory = mkdtempSync(join(tmpdir(), "castore-kept-"));
  opened.push({
    async [Symbol.asyncDispose]() {
      rmSync(directory, { recursive: true });
    },
  });
  const path = await makePath("kept", TREE);
  const cache = await startCache(path);
  const first = await start(cache, { directory });
  await raw(first.url + path.bridged);
  await first[Symbol.asyncDispose]();
  opened.pop();
  cache.fail(/.*/, { kind: "status", status: 500 });
  const second = await start(cache, { directory });
  expect((await raw(second.url + narInfoPath(path))).status).toBe(200);
  expect((await raw(second.url + path.bridged)).body.equals(path.nar)).toBe(true);
});

test("a NAR hash that the path does not have any more is 404", async () => {
  const path = await makePath("changed", TREE);
  const other = await makePath("changed", file("another"));
  const bridge = await start(await startCache(path));
  expect((await raw(bridge.url + other.bridged)).status).toBe(404);
  expect(bridge.log.join("\n")).toMatch(/now has NAR/);
});

test("clients that want the same NAR at once share one download", async () => {
  const path = await makePath("shared", TREE);
  const cache = await startCache(path);
  const bridge = await start(cache);
  const url = bridge.url + path.bridged;
  const answers = await Promise.all([raw(url), raw(url), raw(url), raw(url)]);
  for (const { status, body } of answers) {
    expect(status).toBe(200);
    expect(body.equals(path.nar)).toBe(true);
  }
  expect(cache.seen("nar").length).toBe(1);
});

test("a client that reads slowly does not hold up another that wants the same NAR", async () => {
  const path = await makePath("slow", file(Buffer.alloc(24_000_000, "more than sockets hold ")));
  const cache = await startCache(path);
  const bridge = await start(cache, { delivery: { holdMs: 60_000 } });
  const url = bridge.url + path.bridged;
  const slow = await open(url);
  const answer = await raw(url);
  expect(answer.body.equals(path.nar)).toBe(true);
  expect(cache.seen("nar").length).toBe(1);
  expect(slow.complete).toBe(false);
  slow.destroy();
});

test("when the client that fetches goes away, one that waits fetches by itself", async () => {
  const path = await makePath("abandoned", TREE);
  const cache = await startCache(path);
  cache.fail("nar", { kind: "stall", afterBytes: 200_000 }, 1);
  const bridge = await start(cache, { delivery: { holdMs: 1 } });
  const url = bridge.url + path.bridged;
  const leaving = await open(url);
  const waiting = raw(url);
  leaving.destroy();
  const { status, body } = await waiting;
  expect(status).toBe(200);
  expect(body.equals(path.nar)).toBe(true);
  expect(cache.seen("nar").length).toBe(2);
});

test("a client that goes away frees the upstream's connection and keeps nothing", async () => {
  const path = await makePath("left", TREE);
  const cache = await startCache(path);
  cache.fail("nar", { kind: "stall", afterBytes: 200_000 });
  const bridge = await start(cache, { delivery: { holdMs: 1 } });
  const response = await open(bridge.url + path.bridged);
  expect(await bridge.metric("castore_nars_under_way")).toBe(1);
  response.destroy();
  await cache.until(({ requests }) => requests.some(({ isAborted }) => isAborted));
  expect(await bridge.metric("castore_nars_under_way")).toBe(0);
  expect(await bridge.pathInfos.get(storePathHash(path.narInfo.storePath))).toBeUndefined();
  expect(bridge.pathInfos.findNar(path.narInfo.narHash)).toBeUndefined();
});

test("a client that goes away before the first byte frees the upstream, too", async () => {
  const path = await makePath("left-early", TREE);
  const cache = await startCache(path);
  cache.fail("nar", { kind: "hang" });
  const bridge = await start(cache);
  const abort = new AbortController();
  const asked = fetch(bridge.url + path.bridged, { signal: abort.signal });
  await cache.until(({ requests }) => requests.some(({ pathClass }) => pathClass === "nar"));
  abort.abort();
  await expect(asked).rejects.toThrow();
  await cache.until(({ requests }) => requests.some(({ isAborted }) => isAborted));
});

test("a path whose NAR another path has is served from the store", async () => {
  const a = await makePath("same-a", TREE);
  const b = await makePath("same-b", TREE);
  const cache = await startCache(a, b);
  const bridge = await start(cache);
  await raw(bridge.url + a.bridged);
  expect((await raw(bridge.url + b.bridged)).headers["accept-ranges"]).toBe("bytes");
  expect(cache.seen("nar").length).toBe(1);
});
