import { afterEach, expect, test } from "vitest";
import { StandInCache } from "../../../test/support/stand-in-cache.ts";
import { storePathHash } from "../src/nix/store-path.ts";
import { type Bridge, type BridgeOptions, startBridge } from "./bridge-fixture.ts";
import { directory, file } from "./nar-fixture.ts";
import {
  makePath,
  narInfoPath,
  OTHER_SECRET_KEY,
  publish,
  SECRET_KEY,
  storePathNamed,
  type TestPath,
} from "./path-fixture.ts";
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

test("nix-cache-info names the StoreDir, WantMassQuery 1 and Priority 30", async () => {
  const bridge = await start([await startCache()]);
  const answer = await raw(`${bridge.url}/nix-cache-info`);
  expect(answer.headers["content-type"]).toBe("text/x-nix-cache-info");
  expect(answer.body.toString()).toBe("StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n");
});

test("a narinfo has every field as sent, but URL, Compression and file", async () => {
  const path = await makePath("all-fields", file("x".repeat(1000)), {
    compression: "xz",
    references: [storePathNamed("dep-b"), storePathNamed("dep-a"), "self"],
    keys: [OTHER_SECRET_KEY, SECRET_KEY],
    change: { deriver: storePathNamed("all-fields.drv"), system: "x86_64-linux" },
  });
  const bridge = await start([await startCache(path)]);
  const answer = await raw(bridge.url + narInfoPath(path));
  expect(answer.status).toBe(200);
  expect(answer.headers["content-type"]).toBe("text/x-nix-narinfo");
  const { storePath, narHash, narSize, references, deriver, signatures } = path.narInfo;
  expect(answer.body.toString()).toBe(
    [
      `StorePath: /nix/store/${storePath}`,
      `URL: ${path.bridged.slice(1)}`,
      "Compression: none",
      `NarHash: ${narHash}`,
      `NarSize: ${narSize}`,
      `References: ${references.join(" ")}`,
      `Deriver: ${deriver}`,
      "System: x86_64-linux",
      `Sig: ${signatures[0]}`,
      `Sig: ${signatures[1]}`,
      "",
    ].join("\n"),
  );
});

test("the narinfo of a path that is in the store by now is the same, byte for byte", async () => {
  const path = await makePath("stored", directory({ a: file("a") }), {
    references: [storePathNamed("dep")],
    change: { deriver: storePathNamed("stored.drv"), system: "x86_64-linux" },
  });
  const cache = await startCache(path);
  const bridge = await start([cache]);
  const before = await raw(bridge.url + narInfoPath(path));
  expect((await raw(bridge.url + path.bridged)).body.equals(path.nar)).toBe(true);
  await bridge.substituter[Symbol.asyncDispose]();
  expect(await bridge.pathInfos.get(storePathHash(path.narInfo.storePath))).toBeDefined();
  cache.fail(/.*/, { kind: "status", status: 500 });
  const after = await raw(bridge.url + narInfoPath(path));
  expect(after.body.toString()).toBe(before.body.toString());
});

test("a HEAD of a narinfo answers the headers alone", async () => {
  const path = await makePath("head", file("x"));
  const bridge = await start([await startCache(path)]);
  const get = await raw(bridge.url + narInfoPath(path));
  const head = await raw(bridge.url + narInfoPath(path), { method: "HEAD" });
  expect(head.status).toBe(200);
  expect(head.headers["content-length"]).toBe(String(get.body.byteLength));
  expect(head.body.byteLength).toBe(0);
});

test("an unknown path is 404, and looking for it fetches nothing else", async () => {
  const path = await makePath("unknown", file("x"));
  const cache = await startCache();
  const bridge = await start([cache]);
  expect((await raw(bridge.url + narInfoPath(path))).status).toBe(404);
  expect(bridge.log.join("\n")).toMatch(/absent/);
  expect(cache.seen("nar")).toEqual([]);
});

test("a narinfo that no trusted key signed is 404, and the log says why", async () => {
  const path = await makePath("untrusted", file("x"), { keys: [OTHER_SECRET_KEY] });
  const bridge = await start([await startCache(path)]);
  expect((await raw(bridge.url + narInfoPath(path))).status).toBe(404);
  expect(bridge.log.join("\n")).toMatch(/no trusted signature/);
});

test("an untrusted narinfo of one upstream does not hide a trusted one of the next", async () => {
  const tree = file("x");
  const bad = await makePath("twice", tree, { keys: [OTHER_SECRET_KEY] });
  const good = await makePath("twice", tree);
  const bridge = await start([await startCache(bad), await startCache(good)]);
  const answer = await raw(bridge.url + narInfoPath(good));
  expect(answer.status).toBe(200);
  expect(answer.body.toString()).toContain(`Sig: ${good.narInfo.signatures[0]}\n`);
});

const FAULTS = [
  { kind: "status", status: 500 },
  { kind: "status", status: 503, headers: { "retry-after": "60" } },
  { kind: "status", status: 403 },
  { kind: "status", status: 401 },
  { kind: "reset" },
  { kind: "html" },
  { kind: "cut", afterBytes: 40 },
] as const;

test.each(FAULTS)(
  "an upstream's fault (%o) is a 404 to Nix with a reason in the log",
  async (fault) => {
    const path = await makePath("faulty", file("x"));
    const cache = await startCache(path);
    cache.fail("narinfo", fault);
    const bridge = await start([cache]);
    expect((await raw(bridge.url + narInfoPath(path))).status).toBe(404);
    expect(bridge.log.join("\n")).toContain(cache.origin);
  },
);

test("an upstream that hangs does not keep the next one from answering", async () => {
  const path = await makePath("hanging", file("x"));
  const hanging = await startCache(path);
  hanging.fail("narinfo", { kind: "hang" });
  const good = await startCache(path);
  const bridge = await start([hanging, good], { hedgeMs: 50 });
  expect((await raw(bridge.url + narInfoPath(path))).status).toBe(200);
});

test("what is no narinfo's name is 404 and asks no upstream", async () => {
  const cache = await startCache();
  const bridge = await start([cache]);
  for (const url of ["/garbage", "/0123.narinfo", "/nar/x", "/nar/snix-castore/x?narsize=1"]) {
    expect((await raw(bridge.url + url)).status).toBe(404);
  }
  expect(cache.requests).toEqual([]);
});

test("listings, logs and the like come from the first upstream that has them", async () => {
  const [first, second] = [await startCache(), await startCache()];
  const paths = [
    `/${"a".repeat(32)}.ls`,
    "/log/abc-x.drv",
    "/realisations/sha256:00!out.doi",
    "/build-trace-v2/x.drv/out.doi",
    "/debuginfo/0123456789.debug",
  ];
  for (const path of paths) second.objects.set(path, `contents of ${path}`);
  second.objects.set("/log/abc-x.drv", { body: "log", headers: { "content-type": "text/plain" } });
  const bridge = await start([first, second]);
  for (const path of paths) {
    const answer = await raw(bridge.url + path);
    expect([path, answer.status]).toEqual([path, 200]);
    const expected = path.startsWith("/log") ? "log" : `contents of ${path}`;
    expect(answer.body.toString()).toBe(expected);
    const head = await raw(bridge.url + path, { method: "HEAD" });
    expect(head.status).toBe(200);
    expect(head.headers["content-length"]).toBe(String(expected.length));
    expect(head.headers["content-type"]).toBe(answer.headers["content-type"]);
  }
  expect(first.requests.length).toBeGreaterThanOrEqual(2 * paths.length);
  expect((await raw(`${bridge.url}/log/unknown`)).status).toBe(404);
});

test("a listing that breaks off is not a whole answer", async () => {
  const cache = await startCache();
  cache.objects.set(`/${"b".repeat(32)}.ls`, "y".repeat(300_000));
  cache.fail("ls", { kind: "cut", afterBytes: 100_000 });
  const bridge = await start([cache]);
  const answer = await raw(`${bridge.url}/${"b".repeat(32)}.ls`);
  expect(answer.isWhole).toBe(false);
});

test("healthz answers, and metrics count answers by route and status", async () => {
  const path = await makePath("counted", file("x"));
  const bridge = await start([await startCache(path)]);
  expect((await raw(`${bridge.url}/healthz`)).body.toString()).toBe("ok\n");
  await raw(bridge.url + narInfoPath(path));
  await raw(bridge.url + path.bridged);
  const text = (await raw(`${bridge.url}/metrics`)).body.toString();
  expect(text).toMatch(/castore_answers_total\{route="\/:file",status="200"\} 1\n/);
  expect(text).toMatch(/castore_nars_total\{way="plain"\} 1\n/);
});
