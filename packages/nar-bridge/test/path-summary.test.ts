import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createZstdDecoder, decodeTreeSummary } from "@castore/castore";
import { beforeAll, describe, expect, test } from "vitest";
import { runCastore } from "../../../test/support/castore-process.ts";
import { decodeClosureStream } from "../src/path-infos/closure-stream.ts";
import { PathCosts } from "../src/substitution/path-cost.ts";
import { startBridge } from "./bridge-fixture.ts";
import { closeAfterEach } from "./close-after-each.ts";
import { serveFiles } from "./file-server.ts";
import { directory, file, type Tree } from "./nar-fixture.ts";
import { makePath, SECRET_KEY, type TestPath } from "./path-fixture.ts";
import { raw } from "./raw-client.ts";
import { Relay } from "./relay.ts";
import {
  holdSomething,
  startCompanionWorld,
  startUpgradeWorld,
  storeHashOf,
} from "./upgrade-fixture.ts";

const use = closeAfterEach();

const FILES = 150;
const CASTORE = / \/castore\//;
const CLOSURE = /^POST \/castore\/closure$/;
const FETCH = /^POST \/castore\/fetch$/;

/** What each file begins with: xz finds it again in the NAR, a chunk by itself has it whole. */
const LICENCE = createHash("shake256", { outputLength: 200 }).update("licence").digest("base64");

/** Many small files, whose directories and recipe are a large part of their NAR in xz. */
function manyFiles(version: (at: number) => number): Tree {
  const folders: Record<string, Tree> = {};
  for (let at = 0; at < FILES; at += 50) {
    const entries = Array.from({ length: 50 }, (_, i) => {
      const name = `file-${at + i}`;
      const seed = `${name} ${version(at + i)}`;
      const own = createHash("shake256", { outputLength: 512 }).update(seed).digest("base64");
      return [name, file(Buffer.from(LICENCE + own))] as const;
    });
    folders[`folder-${at}`] = directory(Object.fromEntries(entries));
  }
  return directory(folders);
}

let old: TestPath;
/** Ten files are others. */
let near: TestPath;
/** All files are others. */
let far: TestPath;

beforeAll(async () => {
  const path = (name: string, tree: Tree) => makePath(name, tree, { compression: "xz" });
  old = await path(
    "many-1",
    manyFiles(() => 1),
  );
  near = await path(
    "many-2",
    manyFiles((at) => (at % 15 === 0 ? 2 : 1)),
  );
  far = await path(
    "many-3",
    manyFiles(() => 3),
  );
});

/** Bytes that may pass for a path that comes as its NAR. */
const most = ({ file: { byteLength } }: TestPath) => byteLength * 1.02 + 16 * 1024;

describe("a path of many small files of which the client", () => {
  test("has nothing comes as its NAR, for a summary's bytes more", async () => {
    const { relay, bridge, cache } = await use(startCompanionWorld([old]));
    await holdSomething(bridge);
    expect((await raw(bridge.url + old.bridged)).body.equals(old.nar)).toBe(true);
    expect(cache.seen("nar").length).toBe(1);
    expect(relay.seen(CASTORE).map(({ path }) => path)).toEqual([
      "/castore/info",
      "/castore/closure",
    ]);
    expect(relay.bytes(CASTORE) + old.file.byteLength).toBeLessThan(most(old));
    expect(relay.bytes(CASTORE)).toBeLessThan(2_048);
    await bridge.substituter[Symbol.asyncDispose]();
    const { prices } = new PathCosts(bridge.store).get(storeHashOf(old)) ?? {};
    expect(prices?.map(({ kind, verdict }) => `${kind} ${verdict}`)).toEqual([
      "chunks costlier",
      "nar taken",
    ]);
  });

  test("has another version with nothing in common, too", async () => {
    const { relay, bridge, cache } = await use(startCompanionWorld([old, far]));
    await raw(bridge.url + old.bridged);
    await bridge.substituter[Symbol.asyncDispose]();
    relay.requests.length = 0;
    expect((await raw(bridge.url + far.bridged)).body.equals(far.nar)).toBe(true);
    expect(cache.seen("nar").length).toBe(2);
    expect(relay.bytes(CASTORE) + far.file.byteLength).toBeLessThan(most(far));
  });

  test("has most comes as the chunks that are missing, for one request more", async () => {
    const { relay, bridge, cache } = await use(startCompanionWorld([old, near]));
    await raw(bridge.url + old.bridged);
    await bridge.substituter[Symbol.asyncDispose]();
    relay.requests.length = 0;
    expect((await raw(bridge.url + near.bridged)).body.equals(near.nar)).toBe(true);
    expect(cache.seen("nar").length).toBe(1);
    expect(relay.seen(CLOSURE).length).toBe(2);
    expect(relay.seen(FETCH).length).toBe(1);
    expect(relay.bytes(CASTORE)).toBeLessThan(near.file.byteLength / 2);
  });
});

test("two paths that pay are asked for in one request, after one for their summaries", async () => {
  const [first, second] = await Promise.all(
    ["many-a", "many-b"].map((name, i) =>
      makePath(
        name,
        manyFiles((at) => (at % 15 === i + 1 ? 2 : 1)),
        { compression: "xz" },
      ),
    ),
  );
  if (first === undefined || second === undefined) throw new Error("no paths");
  const { relay, bridge } = await use(startCompanionWorld([old, first, second]));
  await raw(bridge.url + old.bridged);
  await bridge.substituter[Symbol.asyncDispose]();
  relay.requests.length = 0;
  for (const path of [first, second]) {
    expect((await raw(`${bridge.url}/${storeHashOf(path)}.narinfo`)).status).toBe(200);
  }
  for (const { bridged, nar } of [first, second]) {
    expect((await raw(bridge.url + bridged)).body.equals(nar)).toBe(true);
  }
  expect(relay.seen(CLOSURE).length).toBe(2);
});

test("--upgrade require asks for no summary", async () => {
  const { relay, bridge } = await use(startUpgradeWorld([old], { upgrade: "require" }));
  expect((await raw(bridge.url + old.bridged)).body.equals(old.nar)).toBe(true);
  expect(relay.seen(CLOSURE).length).toBe(1);
  expect(relay.seen(/^GET \/nar\//)).toEqual([]);
});

test("a server without the feature is asked for the whole at once", async () => {
  const { relay, bridge, cache } = await use(startCompanionWorld([old, near]));
  await holdSomething(bridge);
  const change = (body: Buffer) => {
    const info = JSON.parse(body.toString());
    const features = info.features.filter((feature: string) => feature !== "summary");
    return Buffer.from(JSON.stringify({ ...info, features }));
  };
  relay.faults.push([/castore\/info$/, { kind: "change", change }]);
  for (const { bridged, nar } of [old, near]) {
    expect((await raw(bridge.url + bridged)).body.equals(nar)).toBe(true);
    await bridge.substituter[Symbol.asyncDispose]();
  }
  expect(relay.seen(CLOSURE).length).toBe(2);
  expect(cache.seen("nar").length).toBe(1);
});

test("a server that has but summaries to tell is a failed one: the NAR comes plainly", async () => {
  const { relay, bridge, cache } = await use(startCompanionWorld([old, near]));
  await raw(bridge.url + old.bridged);
  await bridge.substituter[Symbol.asyncDispose]();
  relay.requests.length = 0;
  let first: Buffer | undefined;
  const change = (body: Buffer) => {
    first ??= body;
    return first;
  };
  relay.faults.push([CLOSURE, { kind: "change", change }]);
  expect((await raw(bridge.url + near.bridged)).body.equals(near.nar)).toBe(true);
  expect(relay.seen(CLOSURE).length).toBe(2);
  expect(cache.seen("nar").length).toBe(2);
  expect(bridge.log.join("\n")).toContain("an unwanted summary");
});

test("from static files: one where the client has nothing, three where it has most", async () => {
  const temporary = mkdtempSync(join(tmpdir(), "castore-summary-"));
  const removed = async () => rmSync(temporary, { recursive: true });
  await use(Promise.resolve({ [Symbol.asyncDispose]: removed }));
  const { serve, cache } = await use(startCompanionWorld([old, near]));
  const store = join(temporary, "store");
  const of = [old, near].map(({ narInfo }) => `/nix/store/${narInfo.storePath}`);
  const trust = ["--trusted-public-key", SECRET_KEY.publicKey.text];
  const from = ["--store", store, "--upstream", serve.url, ...trust];
  expect(await runCastore(["substitute", ...from, ...of])).toMatchObject({ code: 0 });
  const to = join(temporary, "exported");
  const out = ["--store", store, "--to", to, "--compression", "zstd:1"];
  expect(await runCastore(["export", ...out, ...of])).toMatchObject({ code: 0 });
  const files = await use(serveFiles(to));
  const relay = await use(Relay.start(files.url));
  const companions = new Map([[cache.origin, `${relay.url}/`]]);
  const bridge = await use(startBridge({ upstreams: [cache.origin], companions }));
  await holdSomething(bridge);
  const asked = () => relay.requests.splice(0).map(({ path }) => path.split("/")[1]);
  expect((await raw(bridge.url + old.bridged)).body.equals(old.nar)).toBe(true);
  expect(relay.bytes(/./) + old.file.byteLength).toBeLessThan(most(old));
  expect(asked()).toEqual(["info", "summary"]);
  await bridge.substituter[Symbol.asyncDispose]();
  expect((await raw(bridge.url + near.bridged)).body.equals(near.nar)).toBe(true);
  const counts = new Map<string | undefined, number>();
  for (const kind of asked()) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  expect(Object.fromEntries(counts)).toEqual({ summary: 1, dirs: 1, recipe: 1, chunks: 10 });

  // castore serve has the same file.
  const name = `summary/${storeHashOf(near)}`;
  const answers = [await raw(`${relay.url}/${name}`), await raw(`${serve.url}/castore/${name}`)];
  const told = answers.map(async ({ body }) => {
    const kinds: string[] = [];
    let sample = 0;
    for await (const record of decodeClosureStream(createZstdDecoder()([body]))) {
      kinds.push(record.kind);
      if (record.kind === "summary") sample = decodeTreeSummary(record.bytes).sample.length;
    }
    return [...kinds, sample];
  });
  const [exported, served] = await Promise.all(told);
  expect(exported?.slice(0, 2)).toEqual(["pathInfo", "summary"]);
  expect(served).toEqual(exported);
});
