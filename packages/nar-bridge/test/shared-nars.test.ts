import { createHash } from "node:crypto";
import type { BlobService } from "@castore/castore";
import { expect, test } from "vitest";
import { calculateNar } from "../src/nar/nar-render.ts";
import { narHashOf } from "../src/nix/nix-hash.ts";
import { HotBytes } from "../src/server/hot-bytes.ts";
import { SharedNars } from "../src/server/shared-nars.ts";
import { directory, file, gather, memoryServices, storeTree } from "./nar-fixture.ts";

const LARGE = Buffer.from(Array.from({ length: 400_000 }, (_, i) => `${i};`).join(""));
const TREE = directory({
  large: file(LARGE),
  ...Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`f${i}`, file(`file ${i}`)])),
});

test("clients at once get the same bytes, and each blob is read once for all of them", async () => {
  const services = memoryServices();
  const root = await storeTree(TREE, services);
  let opens = 0;
  const blobs: BlobService = {
    ...services.blobs,
    open: (...args) => {
      opens++;
      return services.blobs.open(...args);
    },
  };
  const nars = new SharedNars({ ...services, blobs });
  const { narHash, narSize } = await calculateNar(root, services);
  const read = async () => {
    const nar = await nars.open(root);
    const bytes = await gather(nar.stream(0, nar.size));
    expect(narHashOf(createHash("sha256").update(bytes).digest())).toBe(narHash);
    expect(bytes.byteLength).toBe(narSize);
  };
  await Promise.all(Array.from({ length: 16 }, read));
  // The large one is read in pieces of 512 KiB.
  expect(opens).toBeLessThanOrEqual(300 + Math.ceil(narSize / (1 << 19)) + 1);
});

test("any range is what it is of the whole", async () => {
  const services = memoryServices();
  const nar = await new SharedNars(services).open(await storeTree(TREE, services));
  const whole = await gather(nar.stream(0, nar.size));
  const cuts = [0, 1, 100, (1 << 19) - 1, 1 << 19, (1 << 19) + 1, nar.size - 1, nar.size];
  for (const start of cuts) {
    for (const end of cuts.filter((cut) => cut >= start)) {
      const range = await gather(nar.stream(start, end));
      expect(range.equals(whole.subarray(start, end)), `${start} to ${end}`).toBe(true);
    }
  }
});

test("what is hot is made once, kept within the limit, and a failure is not", async () => {
  const hot = new HotBytes<Uint8Array>(({ byteLength }) => byteLength, 11_000);
  let made = 0;
  const make = async () => Buffer.alloc(3_000, ++made);
  const both = await Promise.all([hot.get("a", make), hot.get("a", make)]);
  expect(both[0]).toBe(both[1]);
  expect(await hot.get("a", make)).toBe(both[0]);
  expect(made).toBe(1);
  for (const key of ["b", "c", "d"]) await hot.get(key, make);
  const kept = ["a", "b", "c", "d"].filter((key) => hot.peek(key) !== undefined);
  expect(kept).toEqual(["b", "c", "d"]);
  await expect(hot.get("e", () => Promise.reject(new Error("no")))).rejects.toThrow("no");
  expect(await hot.get("e", async () => undefined)).toBeUndefined();
  expect(await hot.get("e", make)).toBeInstanceOf(Buffer);
});
