import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { checkStore } from "../src/local/check-store.ts";
import { openLocalStore } from "../src/local/open-local-store.ts";
import { openStoreIndex } from "../src/local/store-index.ts";
import { storeLayout } from "../src/local/store-layout.ts";
import { distUrl, startStoreProcess } from "./store-process.ts";
import { createTemporaryDirectory } from "./temporary-directory.ts";

/** CI runs this twice, once for each Node. The long run: CASTORE_STORE_KILLS=2000. */
const KILLS = Number(process.env.CASTORE_STORE_KILLS ?? 100);
const SEED = Number(process.env.CASTORE_SEED ?? Date.now() % 1_000_000);
/** A store that lives longer grows, and what it costs to verify it. */
const KILLS_PER_STORE = 20;
/** Two at once: while one process dies, another store is verified. */
const STORES_AT_ONCE = 2;
/** A phase takes some milliseconds: so long after it began the process is killed, at most. */
const DELAY_MS_MAX = 20;
/** Killed at the latest so long after its start. */
const LIFE_MS_MAX = 5_000;

/** Puts trees under roots, `puts` of them, four at a time, and drops every third root again. */
const INGEST = `
  // Two collect at once.
  const passOver = (error) => { if (error.code !== "UNAVAILABLE") throw error; };
  let next = Number(process.argv[2]);
  const ingest = async (puts) => {
    const worker = async () => {
      for (let left = puts / 4; left > 0; left--) {
        const i = next++;
        const lease = store.lease();
        const node = await tree(i);
        await store.roots.put([{ key: String(i), node, references: [], payload: Buffer.of(1) }]);
        lease.release();
        say("put " + i);
        if (i % 3 !== 0) continue;
        say("drop " + i);
        await store.roots.delete(String(i));
      }
    };
    await Promise.all([worker(), worker(), worker(), worker()]);
  };
`;

/** What is killed: says the phase that begins, what it will drop before, what it has put after. */
const PROGRAMS = {
  /** One thing after the other, in the main thread: so a kill can be aimed at each. */
  inTurn: `
    import { checkStore } from "${distUrl("local/check-store.js")}";
    import { collectGarbage } from "${distUrl("local/garbage-collection.js")}";
    import { openStoreIndex } from "${distUrl("local/store-index.js")}";
    import { storeLayout } from "${distUrl("local/store-layout.js")}";
    import { StoreLeases } from "${distUrl("local/store-leases.js")}";
    ${INGEST}
    say("phase ingest");
    for (;;) {
      await ingest(8);
      await store.close();
      const layout = storeLayout(process.argv[1]);
      const index = openStoreIndex(layout.index, {});
      const leases = new StoreLeases(index, 0);
      leases.register();
      const host = { checkpoint() {}, pause() {}, renewLease: () => leases.renewSpans() };
      say("phase gc");
      try {
        collectGarbage(index, layout, { owner: leases.id, dryRun: false, waitMs: 0 }, host);
      } catch (error) {
        passOver(error);
      }
      say("phase fsck");
      checkStore(index, layout, { repair: true }, host);
      leases.close();
      await index.close();
      say("phase ingest");
      store = await openLocalStore({ path: process.argv[1] });
    }
  `,
  /** Everything at once, in threads, as in a server. */
  atOnce: `
    ${INGEST}
    const tend = async () => {
      for (;;) {
        say("phase gc");
        await store.collectGarbage({ waitMs: 1000 }).catch(passOver);
        say("phase fsck");
        await store.check({ repair: true }).catch(passOver);
      }
    };
    say("phase ingest");
    await Promise.all([ingest(1e6), tend()]);
  `,
};

const PHASES = ["start", "ingest", "gc", "fsck"] as const;
type Phase = (typeof PHASES)[number];

/** What one store has been told, by processes that are dead. */
interface Expected {
  readonly put: Set<string>;
  readonly dropped: Set<string>;
}

interface Kill {
  readonly program: keyof typeof PROGRAMS;
  /** Killed so long after it said for the `count`th time that this phase begins. */
  readonly phase: Phase;
  readonly count: number;
  readonly delayMs: number;
  /** The number of the first tree it puts. */
  readonly first: number;
}

/** Runs a process until it is killed. Returns the phase in which it died. */
async function workUntilKilled(path: string, kill: Kill, expected: Expected): Promise<Phase> {
  const script = PROGRAMS[kill.program].replace("process.argv[2]", String(kill.first));
  const { child, lines, ended } = startStoreProcess(path, script, {
    before: 'say("open")',
  });
  const strike = (): void => {
    setTimeout(() => child.kill("SIGKILL"), kill.delayMs);
  };
  // However rarely the phase comes that it waits for.
  const latest = setTimeout(() => child.kill("SIGKILL"), LIFE_MS_MAX);
  let phase: Phase = "start";
  let left = kill.count;
  for await (const line of lines) {
    const [verb, what = ""] = line.split(" ");
    if (verb === "put") expected.put.add(what);
    if (verb === "drop") expected.dropped.add(what);
    if (verb === "open" && kill.phase === "start") strike();
    if (verb !== "phase") continue;
    phase = PHASES.find((one) => one === what) ?? phase;
    if (phase === kill.phase && --left === 0) strike();
  }
  clearTimeout(latest);
  expect(await ended).toBe("");
  expect(child.signalCode).toBe("SIGKILL");
  return phase;
}

/** Opens the store as any process would, and looks at all of it. */
async function verify(path: string, { put, dropped }: Expected): Promise<void> {
  await using store = await openLocalStore({ path, create: true });
  expect(await readdir(join(path, "tmp"))).toEqual([]);
  const layout = storeLayout(path);
  const index = openStoreIndex(layout.index, {});
  const host = { checkpoint() {}, pause() {}, renewLease() {} };
  try {
    const report = checkStore(index, layout, { repair: false }, host);
    expect(report).toMatchObject({ faults: [], missing: 0 });
  } finally {
    await index.close();
  }
  const found = new Set<string>();
  for await (const { key } of store.roots.list()) found.add(key);
  const lost = [...put].filter((key) => !found.has(key) && !dropped.has(key));
  expect(lost).toEqual([]);
}

/** Nothing is left that no root needs, and no file that no row tells of. */
async function verifyEnd(path: string): Promise<void> {
  await using store = await openLocalStore({ path });
  await store.collectGarbage();
  const { blobs, faultCount, missing } = await store.check();
  expect({ faultCount, missing }).toEqual({ faultCount: 0, missing: 0 });
  const names = await readdir(join(path, "blobs"), { recursive: true });
  expect(names.filter((name) => name.length > 60).length).toBeLessThanOrEqual(blobs);
  expect(await store.collectGarbage({ dryRun: true })).toMatchObject({
    blobsDeleted: 0,
    directoriesDeleted: 0,
  });
}

test(`a store survives ${KILLS} kills at any moment (seed ${SEED})`, async () => {
  let state = SEED;
  const random = (limit: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return (state >>> 8) % limit;
  };
  const died: Record<Phase, number> = { start: 0, ingest: 0, gc: 0, fsck: 0 };
  let kills = 0;
  let put = 0;
  const strike = async (path: string, expected: Expected): Promise<void> => {
    const program = random(6) === 0 ? "atOnce" : "inTurn";
    const kill: Kill = {
      program,
      phase: PHASES[random(16) === 0 ? 0 : 1 + random(3)] ?? "start",
      // All at once begins to ingest once only.
      count: program === "atOnce" ? 1 : 1 + random(2),
      delayMs: random(DELAY_MS_MAX * 10) / 10,
      first: kills++ * 100_000,
    };
    died[await workUntilKilled(path, kill, expected)]++;
  };
  const wearStore = async (): Promise<void> => {
    await using directory = await createTemporaryDirectory();
    const path = join(directory.path, "store");
    const expected: Expected = { put: new Set(), dropped: new Set() };
    for (const last = Math.min(KILLS, kills + KILLS_PER_STORE); kills < last; ) {
      const victims = [strike(path, expected)];
      // Now and then a second process works on, and meets what the first has left.
      if (random(4) === 0) victims.push(strike(path, expected));
      await Promise.all(victims);
      await verify(path, expected);
    }
    await verifyEnd(path);
    put += expected.put.size;
  };
  const wear = async (): Promise<void> => {
    while (kills < KILLS) await wearStore();
  };
  await Promise.all(Array.from({ length: STORES_AT_ONCE }, wear));
  console.log(`${put} trees were put; processes died in ${JSON.stringify(died)}`);
  expect(put).toBeGreaterThan(KILLS);
  if (KILLS >= 50) expect(Math.min(died.ingest, died.gc, died.fsck)).toBeGreaterThan(0);
}, 3_600_000);
