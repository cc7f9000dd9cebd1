import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Digest } from "@castore/castore";
import { afterAll, beforeAll, expect, it } from "vitest";
import { lastingContents } from "../src/contents.ts";
import { openStore } from "../src/local-store.ts";

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "castore-contents-"));
});
afterAll(() => rm(directory, { recursive: true, force: true }));

it("contents beyond the limit go, those of the store beside stay", async () => {
  await using held = await openStore({ store: join(directory, "held") });
  const path = join(directory, "contents");
  await using contents = await lastingContents(held.store, path, 2_000_000);
  const { digest: kept } = await held.store.blobs.put([randomBytes(100_000)]);
  const put: Digest[] = [];
  let looked = 0;
  // Each is looked at once: that would keep it for a while.
  const next = async () => {
    for (let count = 0; count < 5; count++) {
      put.push((await contents.blobs.put([randomBytes(200_000)])).digest);
    }
    const old = put[looked++];
    const reader = old && (await contents.blobs.open(old));
    await reader?.close();
    return reader === undefined;
  };
  await expect.poll(next, { timeout: 50_000 }).toBe(true);
  await using reader = await contents.blobs.open(kept);
  expect(reader?.size).toBe(100_000);
});
