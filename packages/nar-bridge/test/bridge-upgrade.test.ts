import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeDirectory, encodeRecipe } from "@castore/castore";
import { expect, test } from "vitest";
import { StandInCache } from "../../../test/support/stand-in-cache.ts";
import { RecipeStore } from "../src/path-infos/recipe-store.ts";
import { substituteClosure } from "../src/substitution/closure-substitution.ts";
import { PathCosts } from "../src/substitution/path-cost.ts";
import { startBridge } from "./bridge-fixture.ts";
import { closeAfterEach } from "./close-after-each.ts";
import { directory, file } from "./nar-fixture.ts";
import { makePath, narInfoPath, publish, type TestPath } from "./path-fixture.ts";
import { raw } from "./raw-client.ts";
import { Relay } from "./relay.ts";
import { type Serve, startServe, upload } from "./serve-fixture.ts";
import {
  makeProgram,
  NOISE,
  startCompanionWorld,
  startUpgradeWorld,
  storeHashOf,
} from "./upgrade-fixture.ts";

const use = closeAfterEach();

const CASTORE = / \/castore\//;
const FETCH = /^POST \/castore\/fetch$/;
const CLOSURE = /^POST \/castore\/closure$/;
const PLAIN = /^GET \/nar\//;

/** Directories and recipe of a path as the server has them, in bytes. */
async function metadataBytes({ store, pathInfos }: Serve, path: TestPath): Promise<number> {
  const pathInfo = await pathInfos.get(storeHashOf(path));
  if (pathInfo?.node.type !== "directory") throw new Error("want a directory");
  let bytes = encodeRecipe(await new RecipeStore(store).of(pathInfo)).byteLength;
  for await (const item of store.directories.getClosure(pathInfo.node.digest)) {
    bytes += encodeDirectory(item).byteLength;
  }
  return bytes;
}

test("a NAR is rendered from chunks where the cache offers castore", async () => {
  const [shell, program] = await makeProgram(1);
  if (shell === undefined || program === undefined) throw new Error("no program");
  const { relay, bridge } = await use(startUpgradeWorld([shell, program]));
  expect((await raw(bridge.url + narInfoPath(program))).status).toBe(200);
  expect(relay.seen(CASTORE)).toEqual([]);
  const answer = await raw(bridge.url + program.bridged);
  expect(answer.body.equals(program.nar)).toBe(true);
  expect(answer.headers["accept-ranges"]).toBeUndefined();
  expect(relay.seen(PLAIN)).toEqual([]);
  expect(relay.seen(CLOSURE).length).toBe(1);
  expect(relay.seen(FETCH).length).toBeLessThanOrEqual(2);
  expect(await bridge.metric("castore_nars_total", { way: "castore" })).toBe(1);
  await bridge.substituter[Symbol.asyncDispose]();
  const again = await raw(bridge.url + program.bridged);
  expect(again.headers["accept-ranges"]).toBe("bytes");
  expect(again.body.equals(program.nar)).toBe(true);
});

test("version 2 costs its missing chunks, directories and recipe, and 1 KiB", async () => {
  const one = await makeProgram(1);
  const two = await makeProgram(2, Buffer.from("a change in the middle"));
  const { relay, bridge, serve } = await use(startUpgradeWorld([...one, ...two]));
  for (const path of one) await raw(bridge.url + path.bridged);
  await bridge.substituter[Symbol.asyncDispose]();
  const [, program] = two;
  if (program === undefined) throw new Error("no program");
  const before = await bridge.metric("castore_chunk_bytes_total", { from: "remote" });
  relay.requests.length = 0;
  expect((await raw(bridge.url + program.bridged)).body.equals(program.nar)).toBe(true);
  const missing = (await bridge.metric("castore_chunk_bytes_total", { from: "remote" })) - before;
  expect(missing).toBeLessThan(program.nar.byteLength / 3);
  expect(relay.bytes(FETCH)).toBeLessThanOrEqual(missing + 512);
  const metadata = await metadataBytes(serve, program);
  expect(relay.bytes(CASTORE)).toBeLessThanOrEqual(missing + metadata + 1024);
  expect(relay.seen(CASTORE).length).toBe(2);
  expect(relay.seen(PLAIN)).toEqual([]);
});

test("a path that differs by the hashes of its references only costs no chunk", async () => {
  const one = await makeProgram(1);
  const two = await makeProgram(2);
  const { relay, bridge } = await use(startUpgradeWorld([...one, ...two]));
  for (const path of one) await raw(bridge.url + path.bridged);
  await bridge.substituter[Symbol.asyncDispose]();
  relay.requests.length = 0;
  const [, program] = two;
  if (program === undefined) throw new Error("no program");
  expect((await raw(bridge.url + program.bridged)).body.equals(program.nar)).toBe(true);
  expect(relay.seen(FETCH)).toEqual([]);
  expect(relay.bytes(CASTORE)).toBeLessThan(2048);
});

test("what passed as a plain NAR is not fetched again for the next version", async () => {
  const directory = mkdtempSync(join(tmpdir(), "castore-upgrade-"));
  const removed = async () => rmSync(directory, { recursive: true });
  await use(Promise.resolve({ [Symbol.asyncDispose]: removed }));
  const one = await makeProgram(1);
  const two = await makeProgram(2);
  const { relay } = await use(startUpgradeWorld([...one, ...two]));
  const options = { upstreams: [relay.url], directory };
  {
    await using before = await startBridge({ ...options, upgrade: "never" });
    for (const path of one) await raw(before.url + path.bridged);
    expect(relay.seen(CASTORE)).toEqual([]);
  }
  const after = await use(startBridge(options));
  for (const { bridged, nar } of two) {
    expect((await raw(after.url + bridged)).body.equals(nar)).toBe(true);
  }
  expect(relay.bytes(FETCH)).toBe(0);
});

test("a NAR of at most 64 KiB is fetched plainly, without a castore request", async () => {
  const small = await makePath("small", file(NOISE.subarray(0, 60_000)));
  const { relay, bridge } = await use(startUpgradeWorld([small]));
  expect((await raw(bridge.url + small.bridged)).body.equals(small.nar)).toBe(true);
  expect(relay.seen(CASTORE)).toEqual([]);
  expect(relay.seen(PLAIN).length).toBe(1);
});

test("the same NAR under another name costs no payload", async () => {
  const tree = directory({ big: file(NOISE), small: file("small") });
  const [one, two, three] = await Promise.all(
    ["one", "two", "three"].map((n) => makePath(n, tree)),
  );
  if (one === undefined || two === undefined || three === undefined) throw new Error("no paths");
  const { relay, bridge } = await use(startUpgradeWorld([one, two, three]));
  await raw(bridge.url + one.bridged);
  await bridge.substituter[Symbol.asyncDispose]();
  relay.requests.length = 0;
  expect((await raw(bridge.url + narInfoPath(two))).status).toBe(200);
  expect((await raw(bridge.url + two.bridged)).body.equals(two.nar)).toBe(true);
  const query = { storeHashes: [storeHashOf(three)], closure: false };
  for await (const { isPresent } of substituteClosure(bridge.substituter, query)) {
    expect(isPresent).toBe(false);
  }
  expect(relay.requests.map(({ path }) => path)).toEqual([narInfoPath(two), narInfoPath(three)]);
  const costs = new PathCosts(bridge.store);
  for (const path of [two, three]) {
    const free = { way: "local", contents: { bytes: 0, requests: 0 } };
    await expect.poll(() => costs.get(storeHashOf(path))).toMatchObject(free);
    expect(await bridge.pathInfos.get(storeHashOf(path))).toBeDefined();
  }
});

/** Text that a NAR-wide xz compresses better than chunks one by one. */
function text(length: number): Buffer {
  let all = "";
  for (let line = 0; all.length < length; line++) all += `${line * 7919} of ${line}\n`;
  return Buffer.from(all.slice(0, length));
}

test("never more payload than the plain NAR: it comes plainly where chunks cost more", async () => {
  const path = await makePath("text", directory({ a: file(text(2_000_000)) }), {
    compression: "xz",
  });
  const { relay, bridge, cache } = await use(startCompanionWorld([path]));
  expect((await raw(bridge.url + path.bridged)).body.equals(path.nar)).toBe(true);
  expect(relay.seen(FETCH)).toEqual([]);
  expect(cache.seen("nar").length).toBe(1);
  expect(await bridge.metric("castore_source_failures_total")).toBe(0);
  expect(await bridge.metric("castore_upgrade_rests_total")).toBe(0);
});

test("a companion gives the chunks of what a plain cache signed", async () => {
  const [shell, program] = await makeProgram(1);
  if (shell === undefined || program === undefined) throw new Error("no program");
  const { relay, bridge, cache } = await use(startCompanionWorld([shell, program]));
  const narInfo = await raw(bridge.url + narInfoPath(program));
  expect(narInfo.status).toBe(200);
  expect((await raw(bridge.url + program.bridged)).body.equals(program.nar)).toBe(true);
  expect(relay.seen(FETCH).length).toBeGreaterThan(0);
  expect(relay.seen(/narinfo|nix-cache-info/)).toEqual([]);
  expect(cache.seen("nar")).toEqual([]);
});

test("a companion that lacks the path costs one request, and is not blamed", async () => {
  const [shell, program] = await makeProgram(1);
  if (shell === undefined || program === undefined) throw new Error("no program");
  const { relay, bridge, cache } = await use(startCompanionWorld([shell]));
  publish(cache, program);
  expect((await raw(bridge.url + program.bridged)).body.equals(program.nar)).toBe(true);
  expect(relay.seen(CASTORE).map(({ path }) => path)).toEqual([
    "/castore/info",
    "/castore/closure",
  ]);
  expect(cache.seen("nar").length).toBe(1);
  expect(bridge.log).toEqual([]);
});

test("--upgrade never asks for nothing of castore, not even whether it is there", async () => {
  const program = await makeProgram(1);
  const { relay, bridge } = await use(startUpgradeWorld(program, { upgrade: "never" }));
  for (const { bridged, nar } of program) {
    expect((await raw(bridge.url + bridged)).body.equals(nar)).toBe(true);
  }
  expect(relay.seen(CASTORE)).toEqual([]);
});

test("--upgrade require never asks for a plain NAR", async () => {
  const program = await makeProgram(1);
  const { relay, bridge } = await use(startUpgradeWorld(program, { upgrade: "require" }));
  for (const { bridged, nar } of program) {
    expect((await raw(bridge.url + bridged)).body.equals(nar)).toBe(true);
  }
  relay.faults.push([CASTORE, { kind: "status", status: 500 }]);
  const other = await use(startBridge({ upstreams: [relay.url], upgrade: "require" }));
  for (const { bridged } of program) expect((await raw(other.url + bridged)).status).toBe(404);
  expect(relay.seen(PLAIN)).toEqual([]);
});

/** A plain cache that names a castore server elsewhere. */
async function cacheThatNames(url: string, how: "line" | "header", paths: readonly TestPath[]) {
  const cache = await use(StandInCache.start());
  const line = how === "line" ? `Upgrade: castore/1 ${url}\n` : "";
  cache.objects.set("/nix-cache-info", {
    body: `StoreDir: /nix/store\n${line}`,
    headers: how === "header" ? { "castore-upgrade": `castore/1 ${url}` } : {},
  });
  publish(cache, ...paths);
  return cache;
}

test.each(["line", "header"] as const)(
  "an Upgrade (%s) to another origin needs a word",
  async (how) => {
    const program = await makeProgram(1);
    const serve = await use(startServe());
    await upload(serve, ...program);
    const relay = await use(Relay.start(serve.url));
    const cache = await cacheThatNames(`${relay.url}/castore/`, how, program);
    const wary = await use(startBridge({ upstreams: [cache.origin] }));
    for (const { bridged, nar } of program) {
      expect((await raw(wary.url + bridged)).body.equals(nar)).toBe(true);
    }
    expect(relay.requests).toEqual([]);
    expect(wary.log.join("\n")).toContain(relay.url);
    const upgradeOrigins = [relay.url];
    const allowing = await use(startBridge({ upstreams: [cache.origin], upgradeOrigins }));
    for (const { bridged, nar } of program) {
      expect((await raw(allowing.url + bridged)).body.equals(nar)).toBe(true);
    }
    expect(relay.seen(FETCH).length).toBeGreaterThan(0);
  },
);

test("a server without POST routes serves chunks one by one", async () => {
  const program = await makeProgram(1);
  const { relay, bridge } = await use(startUpgradeWorld(program));
  const change = (body: Buffer) => {
    return Buffer.from(JSON.stringify({ ...JSON.parse(body.toString()), features: [] }));
  };
  relay.faults.push([/castore\/info$/, { kind: "change", change }]);
  for (const { bridged, nar } of program) {
    expect((await raw(bridge.url + bridged)).body.equals(nar)).toBe(true);
  }
  expect(relay.seen(/^POST/)).toEqual([]);
  expect(relay.seen(/^GET \/castore\/chunks\/b3\//).length).toBeGreaterThan(5);
  expect(relay.seen(/^GET \/nar\//).length).toBe(1); // the shell is small
});

test("a closure is substituted in few requests", async () => {
  const program = await makeProgram(1);
  const { relay, bridge } = await use(startUpgradeWorld(program));
  const storeHashes = program.slice(1).map(storeHashOf);
  const done = [];
  const query = { storeHashes, closure: true };
  for await (const { pathInfo } of substituteClosure(bridge.substituter, query))
    done.push(pathInfo);
  expect(done.length).toBe(2);
  expect(relay.seen(/narinfo$/).length).toBeLessThanOrEqual(2);
  expect(relay.seen(CLOSURE).length).toBe(1);
});

test("a closure whose castore server then fails is substituted plainly", async () => {
  const program = await makeProgram(1);
  const { relay, bridge } = await use(startUpgradeWorld(program));
  relay.faults.push([FETCH, { kind: "status", status: 500 }]);
  const query = { storeHashes: program.slice(1).map(storeHashOf), closure: true };
  const done = [];
  for await (const { pathInfo } of substituteClosure(bridge.substituter, query))
    done.push(pathInfo);
  expect(done.length).toBe(2);
  expect(relay.seen(PLAIN).length).toBe(2);
});
