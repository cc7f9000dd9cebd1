import { digestOf } from "@castore/castore";
import { expect, test } from "vitest";
import { StandInCache } from "../../../test/support/stand-in-cache.ts";
import { HOLD_BYTES_MAX } from "../src/substitution/nar-delivery.ts";
import { type Bridge, startBridge } from "./bridge-fixture.ts";
import { closeAfterEach } from "./close-after-each.ts";
import { directory, file } from "./nar-fixture.ts";
import { makePath, publish } from "./path-fixture.ts";
import { open, raw, receive } from "./raw-client.ts";
import { makeProgram, NOISE, startUpgradeWorld, storeHashOf } from "./upgrade-fixture.ts";

const use = closeAfterEach();

const EARLY = Buffer.alloc(500_000, "early");

/** What is held now is left for a later collection, rather than waited for. */
async function collect({ store }: Bridge): Promise<void> {
  await store.collectGarbage({ waitMs: 0 });
  await store.collectGarbage({ waitMs: 0 });
}

test("garbage collected while a plain NAR passes takes nothing of it", async () => {
  // One that is stored while it passes.
  const late = Buffer.alloc(HOLD_BYTES_MAX, "late");
  const path = await makePath("passing", directory({ a: file(EARLY), b: file(late) }));
  const cache = await use(StandInCache.start());
  publish(cache, path);
  const bridge = await use(startBridge({ upstreams: [cache.origin], delivery: { holdMs: 0 } }));
  let pass: () => void = () => {};
  const passed = new Promise<void>((resolve) => {
    pass = resolve;
  });
  // Between the files: a put under way would hold what was put before.
  const half = EARLY.byteLength + 300;
  cache.objects.set(`/${path.narInfo.url}`, async (_request, response) => {
    response.writeHead(200, { "content-length": path.file.byteLength });
    response.write(path.file.subarray(0, half));
    await passed;
    response.end(path.file.subarray(half));
    return undefined;
  });
  const response = await open(bridge.url + path.bridged);
  const { blobs } = bridge.store;
  while (!(await blobs.has(digestOf(EARLY)))) await new Promise((done) => setImmediate(done));
  await collect(bridge);
  pass();
  expect((await receive(response)).body.equals(path.nar)).toBe(true);
  await bridge.substituter[Symbol.asyncDispose]();
  await collect(bridge);
  expect(await bridge.pathInfos.get(storeHashOf(path))).toBeDefined();
  const again = await raw(bridge.url + path.bridged);
  expect(again.headers["accept-ranges"]).toBe("bytes");
  expect(again.body.equals(path.nar)).toBe(true);
});

test("metadata whose directories were collected is asked for again", async () => {
  const [shell, program] = await makeProgram(1);
  if (shell === undefined || program === undefined) throw new Error("no program");
  const { relay, bridge } = await use(startUpgradeWorld([shell, program]));
  const signal = new AbortController().signal;
  expect((await raw(bridge.url + program.bridged)).body.equals(program.nar)).toBe(true);
  await bridge.substituter[Symbol.asyncDispose]();
  await bridge.store.roots.delete(storeHashOf(program));
  await bridge.store.collectGarbage();
  expect(bridge.pathInfos.findNar(program.narInfo.narHash)).toBeUndefined();
  relay.requests.length = 0;
  await bridge.substituter.substitute(storeHashOf(program), { signal });
  expect(relay.seen(/closure$/).length).toBe(1);
  expect(relay.seen(/^GET \/nar\//)).toEqual([]);
  expect((await raw(bridge.url + program.bridged)).body.equals(program.nar)).toBe(true);
});

test("what a NAR that turned out wrong was made of goes with the next collection", async () => {
  const path = await makePath("wrong", file(NOISE));
  const cache = await use(StandInCache.start());
  publish(cache, path);
  cache.fail("nar", { kind: "flip", atByte: 200_000 });
  const bridge = await use(startBridge({ upstreams: [cache.origin] }));
  expect((await raw(bridge.url + path.bridged)).status).toBe(404);
  await bridge.store.collectGarbage();
  const report = await bridge.store.collectGarbage({ dryRun: true });
  expect(report.blobsDeleted).toBe(0);
  expect(report.rootsKept).toBe(0);
});
