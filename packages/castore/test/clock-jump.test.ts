import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { createAbsences } from "../src/composition/absences.ts";
import { createCachedBlobService } from "../src/composition/cached-blob-service.ts";
import { openLocalStore } from "../src/local/open-local-store.ts";
import { digestOf } from "../src/model/digest.ts";
import { createMemoryBlobService } from "../src/services/memory-blob-service.ts";
import { withStore } from "./local-store-fixture.ts";
import { record } from "./root-store-suite.ts";

const YEAR_MS = 365 * 86_400_000;

/** Sets the clock of the machine, which Date reads; time since the boot goes on as ever. */
function jump(ms: number): void {
  vi.setSystemTime(Date.now() + ms);
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["Date"] });
});
afterEach(() => {
  vi.useRealTimers();
});

describe.each([
  ["forward", 10 * YEAR_MS],
  ["back", -10 * YEAR_MS],
])("a clock that jumps %s by ten years", (_, ms) => {
  test("neither ends a pin's time nor makes it longer", async () => {
    await withStore(async (store) => {
      const bytes = Buffer.from("pinned");
      const { digest, size } = await store.blobs.put([bytes]);
      const node = { type: "file", digest, size, executable: false } as const;
      await store.pins.put({ name: "long", keys: [], nodes: [node], ttlMs: 3_600_000 });
      await store.pins.put({ name: "short", keys: [], nodes: [node], ttlMs: 1 });
      jump(ms);
      await expect
        .poll(async () => {
          const names: string[] = [];
          for await (const { name } of store.pins.list()) names.push(name);
          return names;
        })
        .toEqual(["long"]);
      await store.collectGarbage();
      expect(await store.blobs.has(digest)).toBe(true);
    });
  });

  test("does not let go of what was put and is not yet under a root", async () => {
    await withStore(
      async (store) => {
        await using other = await openLocalStore({ path: store.path });
        const lease = store.lease();
        const { digest } = await store.blobs.put([Buffer.from("leased")]);
        jump(ms);
        expect(await other.collectGarbage({ waitMs: 0 })).toMatchObject({ objectsHeld: 1 });
        jump(-ms);
        expect(await store.blobs.has(digest)).toBe(true);
        lease.release();
      },
      { unleasedMs: 60_000 },
    );
  });

  test("does not change which roots were used last", async () => {
    await withStore(async (store) => {
      for (const key of ["first", "second", "third"]) {
        const { digest, size } = await store.blobs.put([Buffer.alloc(100_000, key)]);
        const node = { type: "file", digest, size, executable: false } as const;
        await store.roots.put([record(key, { node })]);
        jump(ms / 10);
      }
      await store.collectGarbage({ sizeMax: 250_000 });
      const left: string[] = [];
      for await (const { key } of store.roots.list()) left.push(key);
      expect(left).toEqual(["second", "third"]);
    });
  });

  test("does not change how long an absence is believed", async () => {
    let now = 0;
    const absences = createAbsences({ now: () => now });
    absences.add("digest");
    jump(ms);
    expect(absences.has("digest")).toBe(true);
    now = 1_001;
    expect(absences.has("digest")).toBe(false);
    const bytes = Buffer.from("late");
    const far = createMemoryBlobService();
    const cached = createCachedBlobService(createMemoryBlobService(), far);
    expect(await cached.has(digestOf(bytes))).toBe(false);
    await far.put([bytes]);
    jump(ms);
    await expect.poll(() => cached.has(digestOf(bytes)), { timeout: 10_000 }).toBe(true);
  });
});
