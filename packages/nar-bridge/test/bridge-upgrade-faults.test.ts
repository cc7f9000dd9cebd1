import {
  createZstdDecoder,
  createZstdEncoder,
  decodeRecipe,
  encodeFetchAnswer,
  encodeRecipe,
  FETCH_END_BYTES,
  type Recipe,
} from "@castore/castore";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  type ClosureRecord,
  decodeClosureStream,
  encodeClosureStream,
} from "../src/path-infos/closure-stream.ts";
import { startBridge } from "./bridge-fixture.ts";
import { closeAfterEach } from "./close-after-each.ts";
import { directory, file, gather } from "./nar-fixture.ts";
import { makePath, type TestPath } from "./path-fixture.ts";
import { raw } from "./raw-client.ts";
import { Relay, type RelayFault } from "./relay.ts";
import { type Serve, startServe, upload } from "./serve-fixture.ts";
import { NOISE, startCompanionWorld, startUpgradeWorld, storeHashOf } from "./upgrade-fixture.ts";

const use = closeAfterEach();

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

/** What may befall any answer. */
const ANY: readonly (readonly [string, RelayFault])[] = [
  ["is 404", { kind: "status", status: 404 }],
  ["is 500", { kind: "status", status: 500 }],
  ["is a login page", { kind: "html" }],
  ["is a reset connection", { kind: "reset" }],
  ["hangs", { kind: "hang" }],
  ["is cut", { kind: "cut", part: 0.5 }],
  ["stalls", { kind: "stall", part: 0.5 }],
  ["is empty", text("")],
];

/** A closure stream with other recipes. */
async function withRecipe(body: Buffer, change: (recipe: Recipe) => Recipe): Promise<Buffer> {
  const records = async function* (): AsyncGenerator<ClosureRecord> {
    for await (const record of decodeClosureStream(createZstdDecoder()([body]))) {
      if (record.kind !== "recipe") yield record;
      else yield { ...record, bytes: encodeRecipe(change(decodeRecipe(record.bytes))) };
    }
  };
  return await gather(createZstdEncoder()(encodeClosureStream(records())));
}

/** Another answer to fetch, in which every item is `status`. */
async function fetchAnswer(body: Buffer, status: "missing" | "failed" | "leftOut") {
  const items = body.readUInt32BE(body.byteLength - FETCH_END_BYTES);
  const none = new Uint8Array(0);
  const frames = Array.from({ length: items }, (_, index) => {
    return { index, status, encoding: "none", bytes: none } as const;
  });
  return await gather(encodeFetchAnswer(frames));
}

function resized(recipe: Recipe, by: number): Recipe {
  const blobs = recipe.blobs.map((blob) => ({ ...blob, size: blob.size + by }));
  return { ...recipe, blobs };
}

/** Moves the end of each blob's first chunk: the lengths are a lie, the sums are not. */
function shifted(recipe: Recipe): Recipe {
  const blobs = recipe.blobs.map((blob) => {
    const [first, second, ...rest] = blob.chunks;
    if (first === undefined || second === undefined) return blob;
    const moved = [
      { ...first, size: first.size - 1 },
      { ...second, size: second.size + 1 },
    ];
    return { ...blob, chunks: [...moved, ...rest] };
  });
  return { ...recipe, blobs };
}

const change = (change: (body: Buffer) => Uint8Array | Promise<Uint8Array>): RelayFault => {
  return { kind: "change", change };
};

/** Of one kind of answer only. */
const SPECIAL: readonly (readonly [string, string, RelayFault])[] = [
  ["info", "is of another version", text(JSON.stringify({ version: 2, storeDir }))],
  ["info", "is of another StoreDir", text('{"version":1,"storeDir":"/gnu"}')],
  ["closure", "is damaged", flip(0.5)],
  ["closure", "is short", change((body) => body.subarray(0, -9))],
  ["closure", "lies about sizes", change((body) => withRecipe(body, (it) => resized(it, 1)))],
  ["closure", "lies about chunks", change((body) => withRecipe(body, shifted))],
  ["fetch", "is damaged", flip(0.5)],
  ["fetch", "has nothing", change((body) => fetchAnswer(body, "missing"))],
  ["fetch", "has failed", change((body) => fetchAnswer(body, "failed"))],
  ["fetch", "leaves all out", change((body) => fetchAnswer(body, "leftOut"))],
  ["dirs", "is damaged", flip(0.5)],
  ["recipe", "is damaged", flip(0.5)],
  ["chunks", "is damaged", flip(0.5)],
];

function faultsOf(...routes: readonly string[]) {
  const any = routes.flatMap((route) => ANY.map(([what, fault]) => [route, what, fault] as const));
  return [...any, ...SPECIAL.filter(([route]) => routes.includes(route))];
}

describe("whatever befalls an answer of castore/1, the plain NAR comes", () => {
  let first: TestPath;
  let second: TestPath;
  let serve: Serve;
  let relay: Relay;
  beforeAll(async () => {
    const tree = (at: number) =>
      directory({ big: file(NOISE.subarray(at, at + 1_400_000)), small: file(`small ${at}`) });
    first = await makePath("first", tree(0));
    second = await makePath("second", tree(1_500_000));
    serve = await startServe();
    await upload(serve, first, second);
    relay = await Relay.start(serve.url);
  });
  beforeEach(() => {
    relay.requests.length = 0;
    relay.faults.length = 0;
  });
  afterAll(async () => {
    for (const part of [relay, serve]) await part[Symbol.asyncDispose]();
  });

  /** Two paths, of which the second asks nothing of castore if the first was answered wrongly. */
  async function expectPlain(isBlamed: boolean): Promise<void> {
    const delivery = { stallMs: 2_000 };
    const options = { upstreams: [relay.url], delivery, stallTimeoutMs: 1_000 };
    const bridge = await use(startBridge(options));
    const answer = await raw(bridge.url + first.bridged);
    expect(answer.isWhole).toBe(true);
    expect(answer.body.equals(first.nar)).toBe(true);
    expect(relay.seen(/^GET \/nar\//).length).toBe(1);
    const rests = bridge.log.filter((line) => /castore at .* is left alone for/.test(line));
    expect(rests.length).toBe(isBlamed ? 1 : 0);
    const asked = relay.seen(/ \/castore\//).length;
    expect((await raw(bridge.url + second.bridged)).body.equals(second.nar)).toBe(true);
    if (isBlamed) expect(relay.seen(/ \/castore\//).length).toBe(asked);
  }

  test.each(faultsOf("info", "closure", "fetch"))("%s %s", async (route, _, fault) => {
    relay.faults.push([new RegExp(`castore/${route}$`), fault]);
    await expectPlain(true);
  });

  test.each(faultsOf("pathinfo", "dirs", "recipe", "chunks"))("static: %s %s", async (...of) => {
    const [route, what, fault] = of;
    const info = JSON.stringify({ version: 1, storeDir, features: [], rootKeys: [] });
    relay.faults.push([/castore\/info$/, text(info)], [new RegExp(`castore/${route}/`), fault]);
    // What a static server does not have is no fault, unless it has the metadata and not the chunk.
    await expectPlain(what !== "is 404" || route === "chunks");
  });
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
  const { serve, bridge, cache, relay } = world;
  // By a summary the NAR would be taken at once: these chunks cost as much.
  const features = ["closure", "fetch"];
  const info = JSON.stringify({ version: 1, storeDir: "/nix/store", features, rootKeys: [] });
  relay.faults.push([/castore\/info$/, text(info)]);
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
