import { expect, test } from "vitest";
import { StandInCache } from "../../../test/support/stand-in-cache.ts";
import type { NarInfo } from "../src/nix/nar-info.ts";
import { storePathHash } from "../src/nix/store-path.ts";
import {
  EARLY_HELD_BYTES_MAX,
  EARLY_NAR_BYTES_MAX,
  EARLY_START_BYTES_MAX,
  EarlyNars,
} from "../src/substitution/early-nars.ts";
import { HOLD_BYTES_MAX } from "../src/substitution/nar-delivery.ts";
import { createHttpClient } from "../src/upstream/http-client.ts";
import { createUpstream } from "../src/upstream/upstream.ts";
import type { FoundNarInfo } from "../src/upstream/upstream-set.ts";
import { type Bridge, type BridgeOptions, startBridge } from "./bridge-fixture.ts";
import { closeAfterEach } from "./close-after-each.ts";
import { file } from "./nar-fixture.ts";
import { makePath, narInfoPath, publish, storePathNamed, type TestPath } from "./path-fixture.ts";
import { open, raw } from "./raw-client.ts";
import { makeProgram, startUpgradeWorld } from "./upgrade-fixture.ts";

const opened = closeAfterEach();

const MIDDLE = file(Buffer.alloc(400_000, "in the middle "));

/** app refers to all others; Nix asks for them by name. */
async function closure(): Promise<Record<"alpha" | "beta" | "gamma" | "app", TestPath>> {
  const alpha = await makePath("alpha", file("first"));
  const beta = await makePath("beta", MIDDLE);
  const gamma = await makePath("gamma", file("third"));
  const references = [gamma, beta, alpha].map(({ narInfo }) => narInfo.storePath);
  return { alpha, beta, gamma, app: await makePath("app", file("app"), { references }) };
}

/** A bridge that was asked for the narinfos of `paths`, and their cache. */
async function start(
  paths: Readonly<Record<string, TestPath>>,
  options: Partial<BridgeOptions> = {},
): Promise<{ readonly cache: StandInCache; readonly bridge: Bridge }> {
  const cache = await opened(StandInCache.start());
  publish(cache, ...Object.values(paths));
  const bridge = await opened(startBridge({ upstreams: [cache.origin], ...options }));
  for (const path of Object.values(paths)) {
    expect((await raw(bridge.url + narInfoPath(path))).status).toBe(200);
  }
  return { cache, bridge };
}

const nameOf = (path: TestPath) => `/${path.narInfo.url}`;

async function expectNar(bridge: Bridge, path: TestPath): Promise<void> {
  const { status, body } = await raw(bridge.url + path.bridged);
  expect(status).toBe(200);
  expect(body.equals(path.nar)).toBe(true);
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}

test("after the first NAR the rest of its closure is fetched, and each NAR once", async () => {
  const paths = await closure();
  const stranger = await makePath("stranger", file("of no closure"));
  const { cache, bridge } = await start({ ...paths, stranger });
  expect(cache.seen("nar")).toEqual([]);
  await expectNar(bridge, paths.alpha);
  const isStored = ({ narInfo }: TestPath) =>
    bridge.pathInfos.findNar(narInfo.narHash) !== undefined;
  await until(() => Object.values(paths).every(isStored));
  const order = [paths.alpha, paths.beta, paths.gamma, paths.app];
  const fetched = cache.seen("nar").map(({ path }) => path);
  expect([...fetched].sort()).toEqual(order.map(nameOf).sort());
  cache.fail(/./, { kind: "status", status: 500 });
  for (const path of order) await expectNar(bridge, path);
  const stored = await bridge.pathInfos.get(storePathHash(paths.app.narInfo.storePath));
  expect(stored?.narHash).toBe(paths.app.narInfo.narHash);
});

test("from a castore server, too, the closure comes before it is asked for", async () => {
  const [shell, program] = await makeProgram(1);
  if (shell === undefined || program === undefined) throw new Error("no program");
  const { relay, bridge } = await opened(startUpgradeWorld([shell, program]));
  for (const path of [program, shell]) await raw(bridge.url + narInfoPath(path));
  expect(relay.seen(/ \/(castore|nar)\//)).toEqual([]);
  await expectNar(bridge, shell);
  await until(() => bridge.pathInfos.findNar(program.narInfo.narHash) !== undefined);
  expect(relay.seen(/^GET \/nar\//)).toEqual([]);
  relay.faults.push([/./, { kind: "status", status: 500 }]);
  await expectNar(bridge, program);
  expect(await bridge.metric("castore_nars_total", { way: "castore" })).toBe(2);
});

test("who asks for a NAR that is on its way takes it over", async () => {
  const paths = await closure();
  const { cache, bridge } = await start(paths, { delivery: { holdMs: 1 } });
  cache.fail(nameOf(paths.beta), { kind: "stall", afterBytes: 200_000 });
  await expectNar(bridge, paths.alpha);
  await cache.until(({ requests }) => requests.some(({ path }) => path === nameOf(paths.beta)));
  const response = await open(bridge.url + paths.beta.bridged);
  expect(response.headers["content-length"]).toBe(String(paths.beta.nar.byteLength));
  expect(cache.seen(nameOf(paths.beta)).length).toBe(1);
  // It is this client's alone now: with it everything goes, and the next begins anew.
  response.destroy();
  await cache.until(() => cache.seen(nameOf(paths.beta))[0]?.isAborted === true);
  cache.heal();
  await expectNar(bridge, paths.beta);
  expect(cache.seen(nameOf(paths.beta)).length).toBe(2);
});

test("a NAR that is wrong while nobody asks is neither stored nor passed on", async () => {
  const paths = await closure();
  const { cache, bridge } = await start(paths);
  cache.fail(nameOf(paths.beta), { kind: "flip", atByte: 1_000 }, 1);
  await expectNar(bridge, paths.alpha);
  await until(() => bridge.log.some((line) => line.includes("its hash is")));
  expect(bridge.pathInfos.findNar(paths.beta.narInfo.narHash)).toBeUndefined();
  // The source is not used again for this path.
  expect((await raw(bridge.url + paths.beta.bridged)).status).toBe(404);
  await expectNar(bridge, paths.gamma);
});

const http = createHttpClient({ environment: {} });
const upstream = createUpstream({ http, url: "http://one.invalid" });
const template = (await makePath("template", file("x"))).narInfo;

function found(name: string, change: Partial<NarInfo>): FoundNarInfo {
  const narHash = `sha256:${name}` as NarInfo["narHash"];
  return {
    upstream,
    narInfo: { ...template, storePath: storePathNamed(name), narHash, ...change },
  };
}

/** Deliveries that end when they are told to. */
async function startEarly(paths: readonly FoundNarInfo[]) {
  const ends = new Map<string, () => void>();
  const started: string[] = [];
  const early = new EarlyNars({
    async *deliver({ narInfo }) {
      started.push(narInfo.narHash);
      await new Promise<void>((resolve) => ends.set(narInfo.narHash, resolve));
    },
    isStored: () => false,
    stored: async () => {},
    closureOf: () => paths,
  });
  await opened(Promise.resolve({ [Symbol.asyncDispose]: async () => early[Symbol.dispose]() }));
  const end = async (name: string) => {
    ends.get(`sha256:${name}`)?.();
    await new Promise((resolve) => setImmediate(resolve));
  };
  const names = () => started.map((narHash) => narHash.slice("sha256:".length));
  return { early, end, names };
}

test("two come at once, and none starts while a client's own is downloaded", async () => {
  const paths = ["a", "b", "c", "d"].map((name) => found(name, { narSize: 1_000 }));
  const { early, end, names } = await startEarly(paths);
  const [first = found("a", {})] = paths;
  const downloaded = early.comes(first);
  expect(names()).toEqual([]);
  downloaded();
  expect(names()).toEqual(["b", "c"]);
  const again = early.comes(first);
  await end("b");
  expect(names()).toEqual(["b", "c"]);
  again();
  expect(names()).toEqual(["b", "c", "d"]);
});

test("no more is fetched ahead than the limit, until it is asked for", async () => {
  const third = EARLY_NAR_BYTES_MAX / 3;
  const paths = ["a", "b", "c", "d", "e"].map((name) =>
    found(name, { narSize: 1_000, fileSize: third }),
  );
  const { early, end, names } = await startEarly(paths);
  early.comes(paths[0] ?? found("a", {}))();
  for (const name of ["b", "c", "d"]) await end(name);
  expect(names()).toEqual(["b", "c", "d"]);
  early.asked(found("c", {}).narInfo.narHash);
  expect(names()).toEqual(["b", "c", "d", "e"]);
});

test("what is under way fits into memory, of a large NAR its start", async () => {
  const rest = EARLY_HELD_BYTES_MAX - HOLD_BYTES_MAX + 1;
  const sizes = { a: 1, b: HOLD_BYTES_MAX, c: rest, d: HOLD_BYTES_MAX + 1, e: 1 };
  const paths = Object.entries(sizes).map(([name, narSize]) =>
    found(name, { narSize, fileSize: 1 }),
  );
  const { early, end, names } = await startEarly(paths);
  early.comes(paths[0] ?? found("a", {}))();
  expect(names()).toEqual(["b"]);
  await end("b");
  expect(names()).toEqual(["b", "c", "d"]);
  await end("c");
  expect(names()).toEqual(["b", "c", "d", "e"]);
});

/** One large NAR that a client will ask for, and how many of its pieces were made. */
async function startLarge() {
  const piece = Buffer.alloc(1 << 20);
  const pieces = 40;
  const large = found("large", { narSize: pieces * piece.byteLength });
  const made = { pieces: 0, isOver: false };
  const first = found("first", { narSize: 1 });
  const early = new EarlyNars({
    async *deliver() {
      try {
        for (; made.pieces < pieces; made.pieces++) yield piece;
      } finally {
        made.isOver = true;
      }
    },
    isStored: () => false,
    stored: async () => {},
    closureOf: () => [first, large],
  });
  early.comes(first)();
  const start = EARLY_START_BYTES_MAX / piece.byteLength;
  await until(() => made.pieces >= start);
  for (let turn = 0; turn < 100; turn++) await new Promise((resolve) => setImmediate(resolve));
  expect(made).toEqual({ pieces: start, isOver: false });
  return { early, made, large };
}

test("a NAR too large to be held waits after its start for who takes it over", async () => {
  const { early, made, large } = await startLarge();
  using _closed = early;
  const { narHash, narSize } = large.narInfo;
  let read = 0;
  for await (const { byteLength } of early.take(narHash, new AbortController().signal) ?? []) {
    read += byteLength;
  }
  expect(read).toBe(narSize);
  await until(() => made.isOver);
});

test("what waits for nobody ends with the bridge", async () => {
  const { early, made } = await startLarge();
  early[Symbol.dispose]();
  await until(() => made.isOver);
  expect(made.pieces).toBe(EARLY_START_BYTES_MAX >> 20);
});
