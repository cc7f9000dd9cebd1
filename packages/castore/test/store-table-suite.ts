import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { isCastoreError } from "../src/castore-error.ts";
import type { Node, StoreTable } from "../src/index.ts";
import { EMPTY_DIGEST } from "../src/model/digest.ts";
import type { Fixture } from "./blob-service-suite.ts";

const NODE: Node = { type: "file", digest: EMPTY_DIGEST, size: 0, executable: false };

/** The contract of StoreTable, line by line. Every implementation calls this once. */
export function describeStoreTable(name: string, make: () => Promise<Fixture<StoreTable>>): void {
  describe(`${name} as a StoreTable`, () => {
    let fixture: Fixture<StoreTable>;
    let table: StoreTable;
    beforeEach(async () => {
      fixture = await make();
      table = fixture.service;
    });
    afterEach(() => fixture.close());

    test("a row comes back as it was put, with and without a node", async () => {
      await table.put([
        { key: "bare", value: Buffer.from([0, 1, 2]) },
        { key: "with a node", value: Buffer.alloc(0), node: NODE },
      ]);
      expect([...(table.get("bare")?.value ?? [])]).toEqual([0, 1, 2]);
      expect(table.get("bare")?.node).toBeUndefined();
      expect(table.get("with a node")?.node).toEqual(NODE);
      expect(table.get("with a node")?.value).toHaveLength(0);
      expect(table.get("absent")).toBeUndefined();
    });

    test("put() replaces a row, and delete() says whether there was one", async () => {
      await table.put([{ key: "é", value: Buffer.from("old"), node: NODE }]);
      await table.put([{ key: "é", value: Buffer.from("new") }]);
      expect(Buffer.from(table.get("é")?.value ?? []).toString()).toBe("new");
      expect(table.get("é")?.node).toBeUndefined();
      expect(await table.delete("é")).toBe(true);
      expect(await table.delete("é")).toBe(false);
    });

    test("list() gives every row once, over any number of rows", async () => {
      const keys = Array.from({ length: 1000 }, (_, i) => `key ${i}`);
      await table.put(keys.map((key) => ({ key, value: Buffer.from(key) })));
      const found: string[] = [];
      for await (const { key, value } of table.list()) {
        expect(Buffer.from(value).toString()).toBe(key);
        found.push(key);
      }
      expect(found.sort()).toEqual(keys.sort());
    });

    test.each(["", "x".repeat(1025)])("a key that is empty or too long is refused", async (key) => {
      const put = table.put([
        { key: "fine", value: Buffer.alloc(1) },
        { key, value: Buffer.alloc(1) },
      ]);
      await expect(put).rejects.toSatisfy((error) => isCastoreError(error, "INVALID"));
      expect(table.get("fine")).toBeUndefined();
    });
  });
}
