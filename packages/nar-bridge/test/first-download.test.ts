import { expect, test } from "vitest";
import { PathCosts } from "../src/substitution/path-cost.ts";
import type { Bridge } from "./bridge-fixture.ts";
import { closeAfterEach } from "./close-after-each.ts";
import { directory, file } from "./nar-fixture.ts";
import { makePath, narInfoPath, type TestPath } from "./path-fixture.ts";
import { raw } from "./raw-client.ts";
import {
  holdSomething,
  NOISE,
  startCompanionWorld,
  startUpgradeWorld,
  storeHashOf,
} from "./upgrade-fixture.ts";

const use = closeAfterEach();

const CASTORE = / \/castore\//;

/** Three large paths and a small one that refers to them, compressed; versions differ little. */
async function closure(version: number): Promise<TestPath[]> {
  const large: TestPath[] = [];
  for (const name of ["one", "two", "three"]) {
    const contents = Buffer.from(NOISE.subarray(large.length * 900_000).subarray(0, 800_000));
    contents.write(`version ${version}`);
    const tree = directory({ data: file(contents), name: file(name) });
    large.push(await makePath(`${name}-${version}`, tree, { compression: "xz" }));
  }
  const references = large.map(({ narInfo }) => narInfo.storePath);
  const all = file(references.join("\n"));
  return [...large, await makePath(`all-${version}`, all, { compression: "xz", references })];
}

/** As Nix does: all narinfos, then the NARs. */
async function fetchAll(bridge: Bridge, paths: readonly TestPath[]): Promise<void> {
  for (const path of paths) expect((await raw(bridge.url + narInfoPath(path))).status).toBe(200);
  for (const path of paths) {
    expect((await raw(bridge.url + path.bridged)).body.equals(path.nar)).toBe(true);
  }
  await bridge.substituter[Symbol.asyncDispose]();
}

const wasAsked = (bridge: Bridge, path: TestPath) =>
  new PathCosts(bridge.store).get(storeHashOf(path));

test("a closure for an empty store comes as its NARs, and nothing else is asked", async () => {
  const paths = await closure(1);
  const { relay, bridge, cache } = await use(startCompanionWorld(paths));
  await fetchAll(bridge, paths);
  expect(relay.seen(CASTORE)).toEqual([]);
  expect(cache.seen("nar").length).toBe(paths.length);
  for (const path of paths) expect(wasAsked(bridge, path)?.metadata.bytes).toBe(0);
  const [first] = paths;
  expect(first && wasAsked(bridge, first)?.why).toContain("the store had nothing");
});

test("of the next version the server is asked what is new in it", async () => {
  const [old, now] = [await closure(1), await closure(2)];
  const { relay, bridge } = await use(startCompanionWorld([...old, ...now]));
  await fetchAll(bridge, old);
  expect(relay.seen(CASTORE)).toEqual([]);
  await fetchAll(bridge, now);
  expect(relay.seen(/castore\/closure$/).length).toBeGreaterThan(0);
  expect(relay.seen(/castore\/fetch$/).length).toBeGreaterThan(0);
});

test("for a store that holds seeds alone the server is asked", async () => {
  const paths = await closure(1);
  const seeds = { blobs: 0, directories: 0, roots: 0, bytes: 0, seeds: 1 };
  const wrap: (store: Bridge["store"]) => Bridge["store"] = (store) =>
    Object.assign(Object.create(store), { stats: () => seeds });
  const { relay, bridge } = await use(startCompanionWorld(paths, { wrap }));
  await fetchAll(bridge, paths);
  expect(relay.seen(/castore\/closure$/).length).toBeGreaterThan(0);
});

test("a cache that compresses nothing has more bytes than chunks: these come", async () => {
  const text = Buffer.alloc(400_000, "what compresses well ");
  const path = await makePath("uncompressed", directory({ text: file(text) }));
  const { relay, bridge } = await use(startUpgradeWorld([path]));
  await fetchAll(bridge, [path]);
  expect(relay.seen(/^GET \/nar\//)).toEqual([]);
  expect(relay.bytes(CASTORE)).toBeLessThan(path.file.byteLength / 2);
});

test.each(["an empty store", "a store with something"])(
  "where the cache has lost its NARs, chunks come to %s at any price",
  async (which) => {
    const paths = await closure(1);
    const { relay, bridge, cache } = await use(startCompanionWorld(paths));
    if (which !== "an empty store") await holdSomething(bridge);
    cache.fail(/^\/nar\//, { kind: "status", status: 404 });
    await fetchAll(bridge, paths);
    expect(relay.seen(/castore\/fetch$/).length).toBeGreaterThan(0);
  },
);
