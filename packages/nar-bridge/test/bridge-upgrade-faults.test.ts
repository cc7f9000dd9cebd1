import { afterEach, expect, test } from "vitest";
import { startBridge } from "./bridge-fixture.ts";
import { directory, file } from "./nar-fixture.ts";
import { makePath, type TestPath } from "./path-fixture.ts";
import { raw } from "./raw-client.ts";
import type { RelayFault } from "./relay.ts";
import { upload } from "./serve-fixture.ts";
import { NOISE, startCompanionWorld, startUpgradeWorld, storeHashOf } from "./upgrade-fixture.ts";

const opened: AsyncDisposable[] = [];
afterEach(async () => {
  for (const resource of opened.splice(0).reverse()) await resource[Symbol.asyncDispose]();
});

async function use<T extends AsyncDisposable>(starting: Promise<T>): Promise<T> {
  const resource = await starting;
  opened.push(resource);
  return resource;
}

function bigPath(name: string, change = ""): Promise<TestPath> {
  const contents = Buffer.from(NOISE);
  contents.write(change, 1_000_000);
  return makePath(name, directory({ big: file(contents), small: file(name) }));
}

function flip(part: number): RelayFault {
  return {
    kind: "change",
    change: (body) => {
      const at = Math.floor(body.byteLength * part);
      body[at] = (body[at] ?? 0) ^ 1;
      return body;
    },
  };
}

const text = (value: string): RelayFault => ({ kind: "change", change: () => Buffer.from(value) });
const storeDir = "/nix/store";
const FAULTS: readonly (readonly [string, RegExp, RelayFault])[] = [
  ["no info", /castore\/info$/, { kind: "status", status: 404 }],
  ["info fails", /castore\/info$/, { kind: "status", status: 500 }],
  ["info is a login page", /castore\/info$/, { kind: "html" }],
  ["info breaks off", /castore\/info$/, { kind: "reset" }],
  ["info is of another version", /castore\/info$/, text(JSON.stringify({ version: 2, storeDir }))],
  ["info is of another StoreDir", /castore\/info$/, text('{"version":1,"storeDir":"/gnu"}')],
  ["no closure", /castore\/closure$/, { kind: "status", status: 404 }],
  ["closure fails", /castore\/closure$/, { kind: "status", status: 500 }],
  ["closure is a login page", /castore\/closure$/, { kind: "html" }],
  ["closure hangs", /castore\/closure$/, { kind: "hang" }],
  ["closure is cut", /castore\/closure$/, { kind: "cut", part: 0.5 }],
  ["closure stalls", /castore\/closure$/, { kind: "stall", part: 0.5 }],
  ["closure is damaged", /castore\/closure$/, flip(0.5)],
  ["closure is empty", /castore\/closure$/, text("")],
  ["closure is short", /castore\/closure$/, { kind: "change", change: (b) => b.subarray(0, -9) }],
  ["no fetch", /castore\/fetch$/, { kind: "status", status: 404 }],
  ["fetch fails", /castore\/fetch$/, { kind: "status", status: 500 }],
  ["fetch is a login page", /castore\/fetch$/, { kind: "html" }],
  ["fetch hangs", /castore\/fetch$/, { kind: "hang" }],
  ["fetch breaks off", /castore\/fetch$/, { kind: "reset" }],
  ["fetch is cut", /castore\/fetch$/, { kind: "cut", part: 0.5 }],
  ["fetch stalls", /castore\/fetch$/, { kind: "stall", part: 0.5 }],
  ["a chunk is damaged", /castore\/fetch$/, flip(0.5)],
];

test.each(FAULTS)("%s: the plain NAR comes, and castore is left alone", async (_, at, fault) => {
  const [first, second] = [await bigPath("first"), await bigPath("second", "another")];
  const delivery = { stallMs: 2_000 };
  const world = await use(startUpgradeWorld([first, second], { delivery, stallTimeoutMs: 1_000 }));
  const { relay, bridge } = world;
  relay.faults.push([at, fault]);
  const answer = await raw(bridge.url + first.bridged);
  expect(answer.isWhole).toBe(true);
  expect(answer.body.equals(first.nar)).toBe(true);
  expect(relay.seen(/^GET \/nar\//).length).toBe(1);
  expect(bridge.log.filter((line) => /castore at .* is left alone for/.test(line)).length).toBe(1);
  const asked = relay.seen(/ \/castore\//).length;
  expect((await raw(bridge.url + second.bridged)).body.equals(second.nar)).toBe(true);
  expect(relay.seen(/ \/castore\//).length).toBe(asked);
});

test("released bytes are continued from the plain NAR when a fetch breaks off late", async () => {
  const path = await bigPath("continued");
  const options = { delivery: { holdMs: 0, stallMs: 2_000 } };
  const { relay, bridge } = await use(startUpgradeWorld([path], options));
  relay.faults.push([/castore\/fetch$/, { kind: "cut", part: 0.7 }]);
  const answer = await raw(bridge.url + path.bridged);
  expect(answer.isWhole).toBe(true);
  expect(answer.body.equals(path.nar)).toBe(true);
});

test("a companion that has another tree for the path is found out by the NAR's hash", async () => {
  const path = await bigPath("truth-tree");
  const lie = await bigPath("false-tree", "evil");
  const world = await use(startCompanionWorld([path, lie]));
  const { serve, bridge, cache } = world;
  const right = await serve.pathInfos.get(storeHashOf(path));
  const wrong = await serve.pathInfos.get(storeHashOf(lie));
  if (right === undefined || wrong === undefined) throw new Error("not uploaded");
  const pathInfo = { ...right, node: wrong.node };
  await serve.pathInfos.putStored([{ pathInfo, proof: { by: "rendered" } }]);
  expect((await raw(bridge.url + path.bridged)).body.equals(path.nar)).toBe(true);
  expect(cache.seen("nar").length).toBe(1);
  expect(bridge.log.join("\n")).toMatch(/castore way by .*: (its hash is|ended at|more than)/);
  expect(await bridge.metric("castore_source_failures_total", { fault: "wrong" })).toBe(1);
  await bridge.substituter[Symbol.asyncDispose]();
  const stored = await bridge.pathInfos.get(storeHashOf(path));
  expect(stored?.node).toEqual(right.node);
});

test("a companion with another NAR hash for the path is not asked for chunks", async () => {
  const path = await bigPath("versions");
  const other = await bigPath("versions", "another build");
  const { serve, relay, bridge, cache } = await use(startCompanionWorld([path]));
  await upload(serve, other);
  expect((await raw(bridge.url + path.bridged)).body.equals(path.nar)).toBe(true);
  expect(relay.seen(/fetch$/)).toEqual([]);
  expect(cache.seen("nar").length).toBe(1);
});

test("a client that goes away gives up its chunks' requests", async () => {
  const path = await bigPath("left-alone");
  const { relay, bridge } = await use(startUpgradeWorld([path]));
  relay.faults.push([/castore\/fetch$/, { kind: "hang" }]);
  const abort = new AbortController();
  const asked = fetch(bridge.url + path.bridged, { signal: abort.signal });
  while (relay.seen(/fetch$/).length === 0) await new Promise((resolve) => setImmediate(resolve));
  abort.abort();
  await expect(asked).rejects.toThrow();
  while ((await bridge.metric("castore_nars_under_way")) > 0) {
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect(await bridge.metric("castore_source_failures_total")).toBe(0);
});

test("what other paths want is still fetched when one path's directories are damaged", async () => {
  const [good, bad] = [await bigPath("good"), await bigPath("bad", "x")];
  const world = await use(startUpgradeWorld([good, bad]));
  const bridge = await use(startBridge({ upstreams: [world.relay.url] }));
  for (const path of [bad, good]) {
    await raw(`${bridge.url}/${storeHashOf(path)}.narinfo`);
  }
  expect((await raw(bridge.url + good.bridged)).body.equals(good.nar)).toBe(true);
  expect((await raw(bridge.url + bad.bridged)).body.equals(bad.nar)).toBe(true);
  expect(world.relay.seen(/closure$/).length).toBe(1);
});
