import { execFile } from "node:child_process";
import { cp, mkdir, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { repositoryRoot } from "../test/support/repository-root.ts";
import { type Benchmark, type Case, type Group, type Measures, once, timed } from "./benchmark.ts";
import {
  openPathStore,
  type PathStore,
  rootDigestAt,
  storeHashAt,
  writePathStore,
} from "./path-store.ts";

const PATHS = 1_000_000;
const COLLECTED = 100_000;
const LOOKUPS = 100_000;
const COLD_LOOKUPS = 2_000;
const GROWTH = 10;
/** Of one get and decode, warm. */
const P99_MICROSECONDS_MAX = 50;
const COLLECTION_SECONDS_MAX = 60;

interface Sample {
  readonly title: string;
  readonly count: number;
  readonly path: () => Promise<string>;
}

/** Lookups in a large store, opening it, and collecting a smaller one. */
export async function prepareEnginePaths(scale: number): Promise<Benchmark> {
  const directory = join(repositoryRoot(), ".cache/engine-bench");
  await mkdir(directory, { recursive: true });
  const sample = (wanted: number): Sample => {
    const count = Math.max(1, Math.round(wanted));
    const path = once(async () => {
      const path = join(directory, `paths-${count}`);
      await writePathStore(path, count);
      return path;
    });
    return { title: `${count.toLocaleString("en")} paths`, count, path };
  };
  const [large, small] = [sample(PATHS * scale), sample((PATHS * scale) / GROWTH)];
  const [collected, fewer] = [sample(COLLECTED * scale), sample((COLLECTED * scale) / GROWTH)];
  return {
    corpus: { paths: large.count, collectedPaths: collected.count },
    groups: [
      lookupGroup(large),
      collectionGroup(collected),
      {
        name: `growth of lookups to ${large.title}`,
        cases: [small, large].map((one) => warmCase(one.title, one, getPathInfo)),
      },
      {
        name: `growth of opening to ${large.title}`,
        cases: [small, large].map((one) => openCase(one.title, one)),
      },
      {
        name: `growth of gc to ${collected.title}`,
        cases: [fewer, collected].map((one) => collectionCase(one.title, one, 1)),
      },
    ],
    // The stores stay: to make the largest takes longer than all measurements.
    close: async () => {},
  };
}

function lookupGroup(sample: Sample): Group {
  const limit = { p99us: P99_MICROSECONDS_MAX };
  return {
    name: `get and decode, ${sample.title}`,
    cases: [
      warmCase("path info, warm", sample, getPathInfo),
      warmCase("directory, warm", sample, getDirectory),
      coldCase("path info, cold", sample, getPathInfo),
      coldCase("directory, cold", sample, getDirectory),
      openCase("open, cold", sample),
    ],
    limits: { "path info, warm": limit, "directory, warm": limit },
  };
}

function collectionGroup(sample: Sample): Group {
  const limit = { seconds: COLLECTION_SECONDS_MAX };
  return {
    name: `gc, ${sample.title}`,
    cases: [
      collectionCase("all stay", sample, Number.MAX_SAFE_INTEGER),
      collectionCase("all go", sample, 1),
    ],
    limits: { "all stay": limit, "all go": limit },
  };
}

/** Prepares the lookup of a path, so that only the store's work is timed. */
type Lookup = (opened: PathStore, index: number) => () => Promise<unknown>;

const getPathInfo: Lookup = ({ pathInfos }, index) => {
  const hash = storeHashAt(index);
  return () => pathInfos.get(hash);
};

const getDirectory: Lookup = ({ store }, index) => {
  const digest = rootDigestAt(index);
  return () => store.directories.get(digest);
};

/** Every path once, or as many as are measured, before the clock runs. */
function warmCase(name: string, { count, path }: Sample, lookup: Lookup): Case {
  return {
    name,
    measure: async () => {
      await using opened = await openPathStore(await path());
      const indexes = sampleIndexes(count, LOOKUPS);
      for (const index of indexes) await lookup(opened, index)();
      return await measureLookups(opened, indexes, lookup);
    },
  };
}

function coldCase(name: string, { count, path }: Sample, lookup: Lookup): Case {
  return {
    name,
    measure: async () => {
      await dropFromPageCache(await path());
      await using opened = await openPathStore(await path());
      return await measureLookups(opened, sampleIndexes(count, COLD_LOOKUPS), lookup);
    },
  };
}

function openCase(name: string, { path }: Sample): Case {
  return {
    name,
    measure: async () => {
      const directory = await path();
      await dropFromPageCache(directory);
      let opened: PathStore | undefined;
      const seconds = await timed(async () => {
        opened = await openPathStore(directory);
      });
      await opened?.store.close();
      const mebibytes = Math.round((await bytesBelow(directory)) / 2 ** 20);
      return { seconds, milliseconds: 1000 * seconds, mebibytes };
    },
  };
}

function collectionCase(name: string, { count, path }: Sample, sizeMax: number): Case {
  return {
    name,
    measure: async () => {
      const copy = `${await path()}-copy`;
      await cp(await path(), copy, { recursive: true });
      try {
        await using opened = await openPathStore(copy);
        let evicted = 0;
        const seconds = await timed(async () => {
          evicted = (await opened.store.collectGarbage({ sizeMax })).rootsEvicted;
        });
        if (evicted !== (sizeMax === 1 ? count : 0)) throw new Error(`gc evicted ${evicted}`);
        return { seconds };
      } finally {
        await rm(copy, { recursive: true, force: true });
      }
    },
  };
}

async function measureLookups(
  opened: PathStore,
  indexes: readonly number[],
  lookup: Lookup,
): Promise<Measures> {
  const lookups = indexes.map((index) => lookup(opened, index));
  const microseconds = new Float64Array(lookups.length);
  let at = 0;
  const seconds = await timed(async () => {
    for (const run of lookups) {
      const start = performance.now();
      const found = await run();
      microseconds[at++] = 1000 * (performance.now() - start);
      if (found === undefined) throw new Error("a path of the sample is not there");
    }
  });
  microseconds.sort();
  const quantile = (part: number) => microseconds[Math.floor(part * microseconds.length)] ?? 0;
  return { seconds, p50us: quantile(0.5), p99us: quantile(0.99) };
}

/** `wanted` numbers below `count`, spread over all of it in no order. */
function sampleIndexes(count: number, wanted: number): number[] {
  const step = 2_654_435_761 % count || 1;
  return Array.from({ length: Math.min(count, wanted) }, (_, index) => (index * step) % count);
}

/** Of files that nobody has open. */
async function dropFromPageCache(directory: string): Promise<void> {
  for (const file of await filesBelow(directory)) {
    await promisify(execFile)("dd", [`if=${file}`, "iflag=nocache", "count=0", "status=none"]);
  }
}

async function bytesBelow(directory: string): Promise<number> {
  const stats = await Promise.all((await filesBelow(directory)).map((file) => stat(file)));
  return stats.reduce((sum, { blocks }) => sum + 512 * blocks, 0);
}

async function filesBelow(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => join(parentPath, name));
}
