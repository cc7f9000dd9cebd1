import { describe, expect, test } from "vitest";
import { SyncWaves } from "../src/files/sync-waves.ts";

/** Changes that end when they are told to, and the syncs that were begun, each of which counts. */
function fixture() {
  const made: string[] = [];
  const syncs: { readonly path: string; readonly made: readonly string[] }[] = [];
  const waves = new SyncWaves(async (path) => {
    syncs.push({ path, made: [...made] });
    if (path === "broken") throw new Error("the disk is broken");
  });
  const begin = (name: string, path: string) => {
    let end: (error?: Error) => void = () => {};
    const durable = waves.run(
      () =>
        new Promise((resolve, reject) => {
          end = (error) => {
            if (error !== undefined) reject(error);
            made.push(name);
            resolve(path);
          };
        }),
    );
    return { durable, end: (error?: Error) => end(error) };
  };
  return { syncs, begin };
}

/** Lets every promise that can settle do so. */
const settle = () => new Promise((resolve) => setImmediate(resolve));

describe("SyncWaves", () => {
  test("a directory is synced once for the changes that were under way together", async () => {
    const { syncs, begin } = fixture();
    const changes = ["a", "b", "a", "b", "a"].map((path, i) => begin(`${i}`, path));
    for (const { end } of changes.slice(0, 4)) {
      end();
      await settle();
    }
    expect(syncs).toEqual([]);
    changes[4]?.end();
    await Promise.all(changes.map(({ durable }) => durable));
    const all = ["0", "1", "2", "3", "4"];
    expect(syncs).toEqual([
      { path: "a", made: all },
      { path: "b", made: all },
    ]);
  });

  test("one that is alone is synced at once", async () => {
    const { syncs, begin } = fixture();
    const change = begin("0", "a");
    change.end();
    await change.durable;
    expect(syncs).toEqual([{ path: "a", made: ["0"] }]);
  });

  test("no change waits for others that began after it was made", async () => {
    const { syncs, begin } = fixture();
    const first = begin("first", "a");
    const second = begin("second", "a");
    first.end();
    await settle();
    const later = begin("later", "a");
    second.end();
    await Promise.all([first.durable, second.durable]);
    expect(syncs).toEqual([{ path: "a", made: ["first", "second"] }]);
    later.end();
    await later.durable;
    expect(syncs.at(-1)).toEqual({ path: "a", made: ["first", "second", "later"] });
  });

  test("a change that fails holds nobody up, and each is told of its own sync", async () => {
    const { begin } = fixture();
    const failing = begin("failing", "a");
    const good = begin("good", "a");
    const unlucky = begin("unlucky", "broken");
    good.end();
    unlucky.end();
    failing.end(new Error("no room"));
    await expect(failing.durable).rejects.toThrow("no room");
    await expect(unlucky.durable).rejects.toThrow("the disk is broken");
    await good.durable;
  });
});
