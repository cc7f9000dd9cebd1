import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { isCastoreError } from "../src/castore-error.ts";
import { OBJECT_KEY_LENGTH_MAX, type ObjectStore } from "../src/objects/object-store.ts";
import type { Fixture } from "./blob-service-suite.ts";
import { prngBytes } from "./vectors.ts";

/** The contract of ObjectStore, line by line, for a store that may be written. */
export function describeObjectStore(name: string, make: () => Promise<Fixture<ObjectStore>>): void {
  describe(`${name} as an ObjectStore`, () => {
    let fixture: Fixture<ObjectStore>;
    let store: ObjectStore;
    beforeEach(async () => {
      fixture = await make();
      store = fixture.service;
    });
    afterEach(() => fixture.close());
    const bytes = prngBytes(200_000);

    test("an absent object is undefined, and deleting it is allowed", async () => {
      expect(await store.get("a/b")).toBeUndefined();
      expect(await store.get("a/b", { range: { start: 0, end: 1 } })).toBeUndefined();
      expect(await store.head("a/b")).toBeUndefined();
      await store.delete("a/b");
    });

    test.each([0, 1, 200_000])("an object of %i bytes comes back", async (size) => {
      const object = bytes.subarray(0, size);
      expect(await store.put("a/b/c", object)).toBe(true);
      expect(await store.head("a/b/c")).toEqual({ size });
      expect((await store.get("a/b/c"))?.equals(object)).toBe(true);
      expect(await store.get("a/b")).toBeUndefined();
      expect(await store.get("a/b/c/d")).toBeUndefined();
    });

    test("put() replaces, and does not where it is told to leave what is there", async () => {
      await store.put("k", bytes);
      expect(await store.put("k", Buffer.from("second"))).toBe(true);
      expect(await store.put("k", Buffer.from("third"), { ifAbsent: true })).toBe(false);
      expect((await store.get("k"))?.toString()).toBe("second");
      expect(await store.put("l", Buffer.from("first"), { ifAbsent: true })).toBe(true);
    });

    test("a range is clipped at the object's size", async () => {
      await store.put("k", bytes);
      for (const [start, end] of [
        [0, 1],
        [0, 200_000],
        [199_999, 300_000],
        [200_000, 200_001],
        [5, 5],
        [70_000, 140_000],
      ] as const) {
        const got = await store.get("k", { range: { start, end } });
        expect(got?.equals(bytes.subarray(start, end)), `[${start}, ${end})`).toBe(true);
      }
    });

    test("more bytes than the caller allows are EXHAUSTED", async () => {
      await store.put("k", bytes);
      const get = store.get("k", { bytesMax: 199_999 });
      await expect(get).rejects.toSatisfy((error) => isCastoreError(error, "EXHAUSTED"));
      expect(await store.get("k", { bytesMax: 200_000 })).toHaveLength(200_000);
    });

    test("list() gives keys below a prefix in their order, page by page", async () => {
      const keys = Array.from({ length: 60 }, (_, i) => `p/${i % 7}/k${i}`);
      await Promise.all(
        [...keys, "p.x", "p-y/1", "q/1"].map((key) => store.put(`o/${key}`, bytes.subarray(0, 3))),
      );
      const list = async (prefix: string) => {
        const found: string[] = [];
        for await (const { key, size } of store.list(prefix)) {
          expect(size).toBe(3);
          found.push(key);
        }
        return found;
      };
      const wanted = keys.map((key) => `o/${key}`).sort();
      expect(await list("o/p/")).toEqual(wanted);
      expect(await list("o/p/3/k1")).toEqual(wanted.filter((key) => key.startsWith("o/p/3/k1")));
      expect(await list("none")).toEqual([]);
      await store.delete("o/q/1");
      expect(await list("o/q")).toEqual([]);
    });

    test("concurrent puts of one key leave one of the objects whole", async () => {
      const objects = Array.from({ length: 16 }, (_, i) => Buffer.alloc(50_000, i));
      await Promise.all(objects.map((object) => store.put("k", object)));
      const got = await store.get("k");
      expect(objects.some((object) => got?.equals(object))).toBe(true);
    });

    test.each(["", "/", "a/", "/a", "a//b", "../a", "a/..", ".tmp-x", "a/.b", "a b", "ä", "a\0"])(
      "the key %j is refused",
      async (key) => {
        const refused = expect.objectContaining({ code: "INVALID" });
        await expect(store.get(key)).rejects.toEqual(refused);
        await expect(store.put(key, bytes)).rejects.toEqual(refused);
        await expect(store.head("a".repeat(OBJECT_KEY_LENGTH_MAX + 1))).rejects.toEqual(refused);
      },
    );

    test("a signal that has aborted ends every call with its reason", async () => {
      const reason = new Error("gone");
      const options = { signal: AbortSignal.abort(reason) };
      await expect(store.get("k", options)).rejects.toBe(reason);
      await expect(store.head("k", options)).rejects.toBe(reason);
      await expect(store.put("k", bytes, options)).rejects.toBe(reason);
      expect(await store.head("k")).toBeUndefined();
    });
  });
}
