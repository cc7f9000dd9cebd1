import type { LocalStore } from "@castore/castore";
import { expect, test } from "vitest";
import { StandInCache } from "../../../test/support/stand-in-cache.ts";
import { HOLD_BUDGET_BYTES } from "../src/substitution/hold-budget.ts";
import { HOLD_BYTES_MAX } from "../src/substitution/nar-delivery.ts";
import { startBridge } from "./bridge-fixture.ts";
import { closeAfterEach } from "./close-after-each.ts";
import { directory, file } from "./nar-fixture.ts";
import { makePath, publish, type TestPath } from "./path-fixture.ts";
import { open, raw } from "./raw-client.ts";
import { storeHashOf } from "./upgrade-fixture.ts";

const use = closeAfterEach();

const FILES = 2_000;

function manyFiles(): Promise<TestPath> {
  const entries = Array.from({ length: FILES }, (_, i) => [`${i}`, file(`file ${i}`)] as const);
  return makePath("many", directory(Object.fromEntries(entries)));
}

/** A bridge whose store puts no blob before `open` is called; `puts` were begun. */
async function startClosed(...paths: readonly TestPath[]) {
  const cache = await use(StandInCache.start());
  publish(cache, ...paths);
  let puts = 0;
  let open: () => void = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  const wrap = (store: LocalStore): LocalStore => {
    const blobsFor: LocalStore["blobsFor"] = (references) => {
      const blobs = store.blobsFor(references);
      const put: typeof blobs.put = async (source, options) => {
        puts++;
        await opened;
        return await blobs.put(source, options);
      };
      return Object.assign(Object.create(blobs), { put, putAll: undefined });
    };
    return Object.assign(Object.create(store), { blobsFor });
  };
  const bridge = await use(startBridge({ upstreams: [cache.origin], wrap }));
  return { cache, bridge, open, puts: () => puts };
}

test("a NAR of many files is given to all who ask before any of it is stored", async () => {
  const path = await manyFiles();
  const { cache, bridge, open, puts } = await startClosed(path);
  const url = bridge.url + path.bridged;
  const answers = await Promise.all([raw(url), raw(url)]);
  answers.push(await raw(url));
  for (const { body } of answers) expect(body.equals(path.nar)).toBe(true);
  const [first, ...others] = answers;
  expect(first?.headers["accept-ranges"]).toBeUndefined();
  // What others get is proven, although it comes from memory.
  for (const { headers } of others) expect(headers["accept-ranges"]).toBe("bytes");
  const range = await raw(url, { headers: { range: "bytes=1000-299999" } });
  expect(range.body.equals(path.nar.subarray(1_000, 300_000))).toBe(true);
  expect(cache.seen("nar").length).toBe(1);
  expect(bridge.pathInfos.findNar(path.narInfo.narHash)).toBeUndefined();
  open();
  await bridge.substituter[Symbol.asyncDispose]();
  expect(puts()).toBe(FILES);
  const stored = await bridge.pathInfos.get(storeHashOf(path));
  expect(stored?.narHash).toBe(path.narInfo.narHash);
  expect((await raw(url)).body.equals(path.nar)).toBe(true);
  expect(cache.seen("nar").length).toBe(1);
});

test("a NAR that turns out to be wrong puts nothing into the store", async () => {
  const path = await manyFiles();
  const { cache, bridge, open, puts } = await startClosed(path);
  open();
  cache.fail("nar", { kind: "flip", atByte: path.nar.byteLength - 200 });
  expect((await raw(bridge.url + path.bridged)).status).toBe(404);
  await bridge.substituter[Symbol.asyncDispose]();
  expect(puts()).toBe(0);
  expect(bridge.store.stats().blobs).toBe(0);
});

test("beyond the budget for NARs that wait to be stored, others are as they pass", async () => {
  const large = Math.floor(HOLD_BUDGET_BYTES / 3) + 1;
  expect(large).toBeLessThan(HOLD_BYTES_MAX);
  const paths = await Promise.all(
    ["a", "b", "c"].map((name) => makePath(name, file(Buffer.alloc(large, name)))),
  );
  const { bridge, open: openStore, puts } = await startClosed(...paths);
  const [a, b, c] = paths;
  if (a === undefined || b === undefined || c === undefined) throw new Error("no paths");
  for (const path of [a, b]) {
    expect((await raw(bridge.url + path.bridged)).body.equals(path.nar)).toBe(true);
  }
  // Its queue is full before its end: the store keeps it back.
  const response = await open(bridge.url + c.bridged);
  let received = 0;
  response.on("data", (piece: Buffer) => {
    received += piece.byteLength;
  });
  while (puts() < 3) await new Promise((resolve) => setTimeout(resolve, 5));
  expect(received).toBeLessThan(c.nar.byteLength);
  openStore();
  await new Promise((resolve) => response.once("end", resolve));
  expect(received).toBe(c.nar.byteLength);
});
