import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { FUZZ_RUNS, mutated } from "../../../test/support/mutated-bytes.ts";
import { isCastoreError } from "../src/castore-error.ts";
import { decodeBlobRow } from "../src/local/blob-row.ts";
import { CHECKED_ROWS, rowFault } from "../src/local/check-rows.ts";
import { decodeChunkList, decodeChunkPlace, encodeChunkPlace } from "../src/local/chunk-rows.ts";
import { decodeRoot } from "../src/local/local-root-store.ts";
import type { LocalStore } from "../src/local/local-store.ts";
import { decodeTableRow } from "../src/local/local-store-table.ts";
import { openLocalStore } from "../src/local/open-local-store.ts";
import { decodePin } from "../src/local/pin-row.ts";
import { decodeSeed, decodeSeedFile } from "../src/local/seed-rows.ts";
import {
  openStoreIndex,
  type RowsName,
  type StoreIndex,
  visitRows,
} from "../src/local/store-index.ts";
import { decodeLease } from "../src/local/store-leases.ts";
import { digestOfBytes } from "../src/model/digest.ts";
import { record, SYMLINK } from "./root-store-suite.ts";
import { createTemporaryDirectory, type TemporaryDirectory } from "./temporary-directory.ts";
import { prngBytes } from "./vectors.ts";

let directory: TemporaryDirectory;
let store: LocalStore;
let index: StoreIndex;

/** A store with a row of every kind, made by its own calls. */
beforeAll(async () => {
  directory = await createTemporaryDirectory();
  const path = join(directory.path, "store");
  store = await openLocalStore({ path, create: true });
  const large = prngBytes(900_000);
  const reference = "0123456789abcdfghijklmnpqrsvwxyz";
  const referring = Buffer.concat([large, Buffer.from(reference), large.subarray(7)]);
  await store.blobs.put([large]);
  await store.blobsFor([reference]).put([referring]);
  await store.blobs.put([Buffer.from("small")]);
  await store.roots.put([
    record("one", { references: ["one", "two"], payload: Buffer.from("payload") }),
    record("two", { payload: Buffer.alloc(0) }),
  ]);
  await store.table("names").put([
    { key: "with", node: SYMLINK, value: Buffer.from("value") },
    { key: "without", value: Buffer.alloc(8) },
  ]);
  await store.pins.put({ name: "pin", keys: ["one"], nodes: [SYMLINK], ttlMs: 60_000 });
  const seeds = join(directory.path, "seeds");
  await mkdir(seeds);
  await writeFile(join(seeds, "file"), large);
  await store.seedTree(seeds, { bytesMin: 0 });
  index = openStoreIndex(join(path, "index"), {});
});
afterAll(async () => {
  await index.close();
  await store.close();
  await directory[Symbol.asyncDispose]();
});

interface Row {
  readonly key: Buffer;
  readonly row: Buffer;
}

/** Rows of this kind as they stand in the store, at least one. */
function rowsOf(name: RowsName): Row[] {
  const rows: Row[] = [];
  visitRows(index.rows[name], {}, (key, row) => {
    rows.push({ key: Buffer.from(key), row: Buffer.from(row) });
    return true;
  });
  expect(rows.length).toBeGreaterThan(0);
  return rows;
}

/** Calls `check` with rows that are there, and what faults made of them. */
function fuzz(name: RowsName, check: (key: Buffer, found: Buffer, row: Buffer) => void): void {
  const rows = fc.constantFrom(...rowsOf(name)).chain(({ key, row }) =>
    fc.record({
      key: fc.constant(key),
      row: fc.constant(row),
      found: mutated(fc.constant(row)),
    }),
  );
  const run = fc.property(rows, ({ key, row, found }) => check(key, found, row));
  fc.assert(run, { numRuns: 2 * FUZZ_RUNS });
}

/** The decoder takes what was written; of what is not, it rejects CORRUPT up to three flips. */
function expectSealed(name: RowsName, decode: (key: string, row: Buffer) => unknown): void {
  const corrupt = expect.toSatisfy((error) => isCastoreError(error, "CORRUPT"));
  for (const { key, row } of rowsOf(name)) {
    const run = (found: Buffer): unknown => decode(key.toString("latin1"), found);
    expect(run(row)).toBeDefined();
    const bits = fc.nat({ max: 8 * row.length - 1 });
    const flips = fc.uniqueArray(bits, { minLength: 1, maxLength: 3 });
    const refusesFlips = fc.property(flips, (places) => {
      const found = Buffer.from(row);
      for (const bit of places) found[bit >> 3] = (found[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(() => run(found)).toThrow(corrupt);
    });
    fc.assert(refusesFlips, { numRuns: FUZZ_RUNS });
  }
  fuzz(name, (key, found) => {
    try {
      decode(key.toString("latin1"), found);
    } catch (error) {
      expect(isCastoreError(error, "CORRUPT")).toBe(true);
    }
  });
}

describe("a row that is not what was written is refused", () => {
  test("roots", () => expectSealed("roots", decodeRoot));
  test("tables", () => expectSealed("tables", decodeTableRow));
  test("pins", () => expectSealed("pins", decodePin));
  test("leases", () => expectSealed("leases", decodeLease));
  test("blob-chunks, by the digest in the key", () =>
    fuzz("blob-chunks", (key, found, row) => {
      expect(decodeChunkList(key, found) !== undefined).toBe(found.equals(row));
    }));
});

describe("a row whose contents are verified elsewhere decodes to what is possible, or not", () => {
  const sizeMax = 2 ** 48;
  test("blobs", () =>
    fuzz("blobs", (_, found) => {
      try {
        const { inline, size } = decodeBlobRow(found, "name");
        expect(inline?.byteLength ?? size).toBe(size);
        expect(size).toBeLessThan(sizeMax);
      } catch (error) {
        expect(isCastoreError(error, "CORRUPT")).toBe(true);
      }
    }));

  test("chunks", () =>
    fuzz("chunks", (_, found) => {
      const place = decodeChunkPlace(found);
      if (place === undefined) return;
      expect(Buffer.from(encodeChunkPlace(place)).equals(found)).toBe(true);
      expect(place.size).toBeLessThanOrEqual(512 << 10);
      for (const at of place.occurrences) {
        expect(at).toBeGreaterThan(-33);
        expect(at).toBeLessThan(place.size);
      }
    }));

  test("seeds", () =>
    fuzz("seeds", (_, found) => {
      const seed = decodeSeed(found);
      if (seed !== undefined) expect(seed.place.size).toBeLessThanOrEqual(512 << 10);
    }));

  test("seed-files", () =>
    fuzz("seed-files", (_, found) => {
      const { chunks } = decodeSeedFile(found);
      expect(chunks.every((chunk) => chunk.byteLength === 32)).toBe(true);
    }));
});

describe("a store with a damaged row", () => {
  test.each(CHECKED_ROWS)("is told of one in %s by fsck, which repairs it", async (kind) => {
    const [first] = rowsOf(kind);
    if (first === undefined) throw new Error("no row");
    const damaged = Buffer.from(first.row);
    damaged[damaged.length - 1] = 0xff;
    index.transaction(() => index.rows[kind].putSync(first.key, damaged));
    expect(rowFault(index, kind, first.key, damaged)).toMatch(/cannot be read/);
    const { faults, faultCount } = await store.check({ repair: true });
    expect(faults).toEqual([
      { kind: "row", name: expect.stringContaining(`${kind}/`), message: "the row cannot be read" },
    ]);
    expect(faultCount).toBe(1);
    expect((await store.check()).faultCount).toBe(0);
    index.transaction(() => index.rows[kind].putSync(first.key, first.row));
  });

  test("of a chunk or a seed finds fewer chunks, and no wrong ones", async () => {
    const [first] = rowsOf("chunks");
    const wanted = { digest: digestOfBytes(first?.key.subarray(0, 32) ?? Buffer.alloc(32)) };
    const before = await store.chunks.get(wanted);
    expect(before?.byteLength).toBeGreaterThan(0);
    for (const kind of ["chunks", "seeds"] as const) {
      for (const { key, row } of rowsOf(kind)) {
        const damaged = Buffer.from(row);
        damaged[0] = (damaged[0] ?? 0) ^ 1;
        index.transaction(() => index.rows[kind].putSync(key, damaged));
      }
    }
    // The store may still read as of before what another one wrote, until its next turn.
    await expect.poll(() => store.chunks.get(wanted)).toBeUndefined();
  });

  test("of a lease collects nothing that somebody may hold, and opens", async () => {
    await using other = await openLocalStore({ path: store.path });
    const { digest } = await other.blobs.put([Buffer.from("held")]);
    for (const { key, row } of rowsOf("leases")) {
      row[0] = 0;
      index.transaction(() => index.rows.leases.putSync(key, row));
    }
    await using third = await openLocalStore({ path: store.path });
    const report = await third.collectGarbage({ waitMs: 0 });
    expect(report.objectsHeld).toBeGreaterThan(0);
    expect(await third.blobs.has(digest)).toBe(true);
  });

  test("of a pin collects nothing, and names the pin", async () => {
    const [pin] = rowsOf("pins");
    if (pin === undefined) throw new Error("no pin");
    pin.row[3] = (pin.row[3] ?? 0) ^ 1;
    index.transaction(() => index.rows.pins.putSync(pin.key, pin.row));
    await expect(store.collectGarbage({ waitMs: 0 })).rejects.toThrow(/pin pin: .*cannot be read/);
  });
});
