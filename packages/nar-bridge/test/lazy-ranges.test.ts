import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  buildOutboard,
  ChunkFetcher,
  type Digest,
  digestOf,
  type LocalStore,
  openLocalStore,
} from "@castore/castore";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { CastoreWay } from "../src/substitution/castore-way.ts";
import { GatheredFetches } from "../src/substitution/gathered-fetches.ts";
import type { BlobSource } from "../src/substitution/lazy-paths.ts";
import { LazyRanges } from "../src/substitution/lazy-ranges.ts";
import { gather } from "./nar-fixture.ts";
import { NOISE } from "./upgrade-fixture.ts";

const REFERENCE = "0a8dmrps7qxa5g3r6xzmyanhhmdmi2cd";
const BLOB = Buffer.concat([NOISE.subarray(0, 1_500_000), Buffer.from(REFERENCE), NOISE]);

let directory: string;
let far: LocalStore;
let near: LocalStore;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "castore-ranges-"));
  far = await openLocalStore({ path: join(directory, "far"), create: true });
  near = await openLocalStore({ path: join(directory, "near"), create: true });
  await far.blobsFor([REFERENCE]).put([BLOB]);
});
afterAll(async () => {
  for (const store of [far, near]) await store.close();
  await rm(directory, { recursive: true });
});

/** The blob, as a server describes it that has all chunks, and counts what it is asked for. */
async function sourceOf() {
  const digest = digestOf(BLOB);
  const analysis = await far.analyze(digest, [REFERENCE]);
  if (analysis === undefined) throw new Error("not there");
  const asked: string[] = [];
  const extra = new Map<Digest, Uint8Array>();
  const fetcher = new ChunkFetcher({
    async *fetchChunks(chunks) {
      for (const chunk of chunks) {
        asked.push(chunk.digest);
        const cost = { requests: 1, bytes: chunk.size };
        yield { bytes: extra.get(chunk.digest) ?? (await far.chunks.get(chunk)), cost };
      }
    },
  });
  const endpoint = {
    info: async () => ({ features: new Set(["outboard"]), rootKeys: [] }),
    outboard: async () => await buildOutboard([BLOB]),
  };
  const chunks = analysis.chunks.map((chunk) => ({ ...chunk, wireSize: undefined }));
  const { occurrences } = analysis;
  const source: BlobSource = {
    blob: { digest, size: BLOB.byteLength, chunks, occurrences },
    references: [REFERENCE],
    near: near.blobs,
    way: { fetcher, endpoint } as unknown as CastoreWay,
  };
  return { source, asked, extra };
}

const createRanges = () =>
  new LazyRanges({ store: near, fetches: new GatheredFetches(), onWhole: () => {} });

const read = (ranges: LazyRanges, source: BlobSource, start: number, end: number) =>
  gather(ranges.stream(source, { start, end }, {}));

it("any range is as in the blob, and no chunk is fetched twice", async () => {
  const { source, asked } = await sourceOf();
  const ranges = createRanges();
  const size = BLOB.byteLength;
  const places = [0, 1, 16_383, 16_384, 262_144, 1_499_990, 1_500_010, 3_000_000, size - 1, size];
  for (const start of places) {
    for (const length of [1, 100, 16_384, 131_072, 700_001]) {
      const end = Math.min(start + length, size);
      const bytes = await read(ranges, source, start, end);
      expect(bytes.equals(BLOB.subarray(start, end)), `${start} to ${end}`).toBe(true);
    }
  }
  expect(asked.length).toBe(new Set(asked).size);
  await ranges.idle();
  // Another process finds what was fetched.
  const before = asked.length;
  expect((await read(createRanges(), source, 0, 100)).equals(BLOB.subarray(0, 100))).toBe(true);
  expect(asked.length).toBe(before);
});

it("chunks of something else, although they are what the recipe names, are refused", async () => {
  const { source, extra } = await sourceOf();
  const [first, ...rest] = source.blob.chunks;
  if (first === undefined) throw new Error("no chunks");
  const lie = Buffer.from(BLOB.subarray(0, first.size)).fill(7, 100_000, 100_001);
  const digest = digestOf(lie);
  extra.set(digest, lie);
  const blob = { ...source.blob, chunks: [{ ...first, digest }, ...rest] };
  const lied = { ...source, blob };
  await expect(read(createRanges(), lied, 98_304, 114_688)).rejects.toMatchObject({
    code: "CORRUPT",
  });
  // The group beside it is as it should be.
  const bytes = await read(createRanges(), lied, 81_920, 98_304);
  expect(bytes.equals(BLOB.subarray(81_920, 98_304))).toBe(true);
});
