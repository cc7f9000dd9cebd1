import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  completeRecipe,
  type Digest,
  encodeFetchRequest,
  FETCH_BYTES_MAX,
  FETCH_ITEMS_MAX,
  type FileNode,
  openLocalStore,
  walkFiles,
} from "@castore/castore";
import {
  createLocalPathInfoService,
  parseAbsoluteStorePath,
  RecipeStore,
  storePathHash,
} from "@castore/nar-bridge";
import { type CastoreProcess, startCastore } from "../test/support/castore-process.ts";
import { type Nginx, startNginx } from "../test/support/nginx.ts";
import { createNixWorld, type NixWorld, readNarInfo } from "../test/support/nix-world.ts";
import type { Benchmark, BenchmarkOptions, Case, Group } from "./benchmark.ts";
import { runClient, type WireRequest } from "./load-client.ts";
import { cpuSecondsOfTree } from "./process-cpu.ts";
import { writeTree } from "./sample-files.ts";

const CLIENTS = 16;
const MANY_CLIENTS = 64;
const SLOW_CLIENTS = 8;
const SMALL_FILES = 5_000;
/** Of Node's own executable: machine code, as most large files. */
const LARGE_BYTES = 64 << 20;

/** A way to ask a server for a path. */
interface Way {
  readonly name: string;
  readonly pid: number;
  readonly origin: string;
  readonly requests: readonly WireRequest[];
  /** Starts another such server, in which nothing is warm. */
  readonly restart?: () => Promise<CastoreProcess>;
  /** Bytes of the NAR, in whatever form they go over the wire. */
  readonly narBytes: number;
}

/** `castore serve` against nginx that has the same NARs as files, on loopback. */
export async function prepareServe({ scale }: BenchmarkOptions): Promise<Benchmark> {
  const world = await createNixWorld();
  try {
    return await prepareIn(world, scale);
  } catch (error) {
    await world[Symbol.asyncDispose]();
    throw error;
  }
}

async function prepareIn(world: NixWorld, scale: number): Promise<Benchmark> {
  const large = world.temporary("large");
  mkdirSync(large);
  const program = readFileSync(process.execPath).subarray(0, LARGE_BYTES * scale);
  writeFileSync(join(large, "node"), program);
  const small = world.temporary("small");
  await writeTree(small, Math.ceil(SMALL_FILES * scale));
  const paths = [await addPath(world, "large", large), await addPath(world, "small", small)];
  const cache = await world.copyToCache(paths, "none");
  const store = world.temporary("serve-store");
  const serve = await startCastore("serve", ["--store", store]);
  const to = `${serve.url}?compression=none`;
  await world.run("nix", ["copy", "--from", `file://${cache}`, "--to", to, ...paths]);
  const nginx = await startNginx({ directory: cache });
  const [largeWays, smallWays] = await Promise.all(
    paths.map((path) => waysTo(path, { cache, store, serve, nginx })),
  );
  const infos = await world.pathInfos(world.store.uri, paths);
  return {
    corpus: {
      largeBytes: infos.find(({ path }) => path === paths[0])?.narSize ?? 0,
      smallBytes: infos.find(({ path }) => path === paths[1])?.narSize ?? 0,
      smallFiles: Math.ceil(SMALL_FILES * scale),
      clients: CLIENTS,
    },
    groups: [
      loadGroup("one large file", largeWays ?? []),
      loadGroup(`${SMALL_FILES * scale} small files`, smallWays ?? []),
      ...(largeWays ?? []).slice(1, 3).map(slowGroup),
    ],
    async close() {
      for (const resource of [nginx, serve, world]) await resource[Symbol.asyncDispose]();
    },
  };
}

async function addPath(world: NixWorld, name: string, directory: string): Promise<string> {
  const args = ["store", "add-path", "--store", world.store.uri, "--name", name, directory];
  return (await world.run("nix", args)).stdout.trim();
}

interface Servers {
  readonly cache: string;
  readonly store: string;
  readonly serve: CastoreProcess;
  readonly nginx: Nginx;
}

async function waysTo(path: string, { cache, store, serve, nginx }: Servers): Promise<Way[]> {
  const hash = path.slice(11, 43);
  const narInfo = await (await fetch(`${serve.url}/${hash}.narinfo`)).text();
  const url = /^URL: (.*)$/m.exec(narInfo)?.[1] ?? "";
  const batches = await fetchBatches(store, path);
  const fetches = (headers: Readonly<Record<string, string>>) =>
    batches.map((body) => ({ method: "POST", path: "/castore/fetch", headers, body }) as const);
  const file = readNarInfo(cache, path).get("URL") ?? "";
  const narBytes = Number(readNarInfo(cache, path).get("NarSize"));
  const restart = () => startCastore("serve", ["--store", store]);
  const castore = { pid: serve.pid, origin: serve.url, restart, narBytes };
  return [
    {
      ...{ name: "nginx, NARs as files", pid: nginx.pid, origin: nginx.url, narBytes },
      requests: [{ method: "GET", path: `/${file}` }],
    },
    { ...castore, name: "castore serve, NARs", requests: [{ method: "GET", path: `/${url}` }] },
    {
      ...{ ...castore, name: "castore serve, chunks as they are" },
      requests: fetches({ "castore-encoding": "none" }),
    },
    { ...castore, name: "castore serve, chunks in zstd", requests: fetches({}) },
  ];
}

/** The requests that a client which has nothing sends for the path's contents. */
async function fetchBatches(storeDirectory: string, path: string): Promise<Buffer[]> {
  await using store = await openLocalStore({ path: storeDirectory });
  const calculateNar = () => Promise.reject(new Error("a bench renders no NAR"));
  const pathInfos = createLocalPathInfoService(store, { calculateNar });
  const pathInfo = await pathInfos.get(storePathHash(parseAbsoluteStorePath(path)));
  if (pathInfo === undefined) throw new Error(`${path} was not uploaded`);
  await using recipes = new RecipeStore(store);
  const recipe = await recipes.of(pathInfo);
  const files: FileNode[] = [];
  const get = (digest: Digest) => store.directories.get(digest);
  for await (const file of walkFiles(pathInfo.node, get)) files.push(file);
  const batches: Digest[][] = [];
  let room = 0;
  for (const { digest, size } of completeRecipe(recipe, files).flatMap(({ chunks }) => chunks)) {
    const last = batches.at(-1);
    if (last === undefined || room < size || last.length === FETCH_ITEMS_MAX) {
      batches.push([digest]);
      room = FETCH_BYTES_MAX - size;
    } else {
      last.push(digest);
      room -= size;
    }
  }
  return batches.map((chunks) => encodeFetchRequest({ chunks, ranges: [] }));
}

function loadGroup(name: string, ways: readonly Way[]): Group {
  const cases = ways.map((way): Case => {
    const measure = async () => {
      const { seconds, cpu, bytes } = await underLoad(way, CLIENTS);
      return {
        ...{ seconds, megabytesPerSecond: bytes / 1e6 / seconds },
        ...{ cpuPerGigabyte: cpu / (bytes / 1e9), coldCpuPerGigabyte: await coldCpu(way) },
      };
    };
    return { name: way.name, measure };
  });
  const targets = Object.fromEntries(ways.slice(1, 2).map((way) => [way.name, 2]));
  return { name: `${CLIENTS} clients at once, ${name}`, cases, targets };
}

/** CPU seconds for each GB that a lone client costs a server that was just started. */
async function coldCpu(way: Way): Promise<number> {
  if (way.restart === undefined) return 0;
  await using server = await way.restart();
  const { cpu, bytes } = await underLoad({ ...way, pid: server.pid, origin: server.url }, 1);
  return cpu / (bytes / 1e9);
}

/** Slow clients must not cost the others more than a fifth of their rate. */
function slowGroup(way: Way): Group {
  const fast = MANY_CLIENTS - SLOW_CLIENTS;
  const run = (slow: number) => async () => {
    const stop = new AbortController();
    const { signal } = stop;
    const asked = () => runClient(way.origin, way.requests, { isSlow: true, signal });
    const slowOnes = Array.from({ length: slow }, asked);
    const { seconds, bytes } = await underLoad(way, fast);
    stop.abort();
    await Promise.all(slowOnes);
    return { seconds, megabytesPerSecond: bytes / 1e6 / seconds };
  };
  const name = `${SLOW_CLIENTS} slow ones beside`;
  return {
    name: `${fast} clients at once, ${way.name}`,
    cases: [
      { name: "alone", measure: run(0) },
      { name, measure: run(SLOW_CLIENTS) },
    ],
    targets: { [name]: 1.25 },
  };
}

async function underLoad(way: Way, clients: number) {
  const cpuBefore = cpuSecondsOfTree(way.pid);
  const start = performance.now();
  const running = Array.from({ length: clients }, () => runClient(way.origin, way.requests));
  await Promise.all(running);
  const seconds = (performance.now() - start) / 1000;
  const cpu = cpuSecondsOfTree(way.pid) - cpuBefore;
  return { seconds, cpu, bytes: clients * way.narBytes };
}
