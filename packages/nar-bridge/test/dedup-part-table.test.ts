import { digestOf } from "@castore/castore";
import { describe, expect, it } from "vitest";
import { PartTable, partKeyOf } from "../src/dedup/dedup-part-table.ts";

const keys = Array.from({ length: 5_000 }, (_, i) => partKeyOf(digestOf(Buffer.from(String(i)))));

describe("PartTable", () => {
  it("finds every part again, with its sizes, however often it grew", () => {
    const table = new PartTable(2);
    for (const [i, key] of keys.entries()) {
      expect(table.find(key)).toBe(undefined);
      const part = table.add(key, 2 ** 33 + i);
      table.setPackedSizes(part, [i, 2 ** 32 + i]);
    }
    expect(table.count).toBe(keys.length);
    for (const [i, key] of keys.entries()) {
      const part = table.find(key) ?? -1;
      expect(table.keyOf(part)).toBe(key);
      expect(table.sizeOf(part)).toBe(2 ** 33 + i);
      expect([...table.packedSizesOf(part)]).toEqual([i, 2 ** 32 + i]);
    }
  });

  it("tells keys apart that want the same slot", () => {
    const table = new PartTable(1);
    const alike = [0n, 1n << 32n, 2n << 32n, 0xffff_ffffn, (1n << 32n) + 0xffff_ffffn];
    const parts = alike.map((key, i) => table.add(key, i));
    expect(alike.map((key) => table.find(key))).toEqual(parts);
    expect(table.find(3n << 32n)).toBe(undefined);
  });

  it("refuses more parts than it may hold, and keeps those that it has", () => {
    const table = new PartTable(1, 3);
    for (const key of keys.slice(0, 3)) table.add(key, 1);
    expect(() => table.add(keys[3] ?? 0n, 1)).toThrow(/more than 3 distinct parts: measure fewer/);
    expect(keys.slice(0, 4).map((key) => table.find(key))).toEqual([0, 1, 2, undefined]);
  });
});
