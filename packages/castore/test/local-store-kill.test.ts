import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { LocalStore } from "../src/local/local-store.ts";
import { openLocalStore } from "../src/local/open-local-store.ts";
import { readAll } from "./blob-service-suite.ts";
import { startStoreProcess } from "./store-process.ts";
import { createTemporaryDirectory } from "./temporary-directory.ts";

/** The long run: CASTORE_STORE_KILLS=200 npx vitest run local-store-kill. */
const KILLS = Number(process.env.CASTORE_STORE_KILLS ?? 6);
const SEED = Number(process.env.CASTORE_SEED ?? Date.now() % 1_000_000);

/**
 * Puts trees under roots, several at a time, drops some roots, and collects or checks all the
 * while. Says what it will drop before, and what it has put after.
 */
const WORK = `
  let next = Number(process.argv[2]);
  const put = async () => {
    for (;;) {
      const i = next++;
      const lease = store.lease();
      const node = await tree(i);
      await store.roots.put([{ key: String(i), node, references: [], payload: Buffer.of(1) }]);
      lease.release();
      say("put " + i);
      if (i % 3 === 0) {
        say("drop " + i);
        await store.roots.delete(String(i));
      }
    }
  };
  const tend = async () => {
    for (;;) {
      await store.collectGarbage({ waitMs: 1000 }).catch(passOver);
      await store.check({ repair: true }).catch(passOver);
    }
  };
  const passOver = (error) => { if (error.code !== "UNAVAILABLE") throw error; };
  await Promise.all([put(), put(), put(), put(), tend()]);
`;

interface Expected {
  readonly put: Set<string>;
  readonly dropped: Set<string>;
}

/** Kills a process that works after it has said `lines` lines, whatever it does then. */
async function workUntilKilled(
  path: string,
  first: number,
  lines: number,
  { put, dropped }: Expected,
): Promise<void> {
  const script = WORK.replace("process.argv[2]", String(first));
  const worker = startStoreProcess(path, script);
  let heard = 0;
  for await (const line of worker.lines) {
    const [verb, key = ""] = line.split(" ");
    (verb === "put" ? put : dropped).add(key);
    if (++heard >= lines) worker.child.kill("SIGKILL");
  }
  expect(await worker.ended).toBe("");
}

async function verify(store: LocalStore, { put, dropped }: Expected): Promise<void> {
  const report = await store.check();
  expect(report.faults).toEqual([]);
  expect(report.missing).toBe(0);
  const found = new Set<string>();
  for await (const { key, node } of store.roots.list()) {
    found.add(key);
    if (node.type !== "directory") throw new Error(`root ${key} is no directory`);
    for await (const directory of store.directories.getClosure(node.digest)) {
      for (const entry of directory.entries) {
        if (entry.node.type === "file") await readAll(store.blobs, entry.node.digest);
      }
    }
  }
  const lost = [...put].filter((key) => !found.has(key) && !dropped.has(key));
  expect(lost).toEqual([]);
}

test(`a store survives ${KILLS} kills at any moment (seed ${SEED})`, async () => {
  let state = SEED;
  const random = (limit: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return (state >>> 8) % limit;
  };
  await using directory = await createTemporaryDirectory();
  const path = join(directory.path, "store");
  const expected: Expected = { put: new Set(), dropped: new Set() };
  for (let kill = 0; kill < KILLS; kill++) {
    const victims = [workUntilKilled(path, kill * 100_000, 1 + random(80), expected)];
    // A second process works on, and meets what the first has left.
    if (kill % 3 === 0) {
      victims.push(workUntilKilled(path, kill * 100_000 + 50_000, 1 + random(120), expected));
    }
    await Promise.all(victims);
    await using store = await openLocalStore({ path, create: true });
    await verify(store, expected);
    expect(await readdir(join(path, "tmp"))).toEqual([]);
  }
  expect(expected.put.size).toBeGreaterThan(0);
  await using store = await openLocalStore({ path });
  await store.collectGarbage();
  await verify(store, expected);
  // Nothing is left that no row tells of.
  const { blobs } = await store.check();
  const files = (await readdir(join(path, "blobs"), { recursive: true })).filter(
    (name) => name.length > 60,
  );
  expect(files.length).toBeLessThanOrEqual(blobs);
  expect(await store.collectGarbage({ dryRun: true })).toMatchObject({
    blobsDeleted: 0,
    directoriesDeleted: 0,
  });
}, 600_000);
