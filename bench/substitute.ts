import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { startCastore } from "../test/support/castore-process.ts";
import { startNginx } from "../test/support/nginx.ts";
import { createNixWorld, type NixWorld } from "../test/support/nix-world.ts";
import { repositoryRoot } from "../test/support/repository-root.ts";
import { type Benchmark, type Case, type Measures, timed } from "./benchmark.ts";
import { buildProfile } from "./profile.ts";
import { startShapingRelay } from "./shaping-relay.ts";

/** Of this checkout's node_modules: code, maps and native binaries, pinned by package-lock.json. */
const PACKAGES = ["@typescript", "@rolldown", "@lmdb", "assemblyscript", "lzma-native", "vite"];
const LINK = { bitsPerSecond: 100e6, roundTripMs: 20 };

/** What the bridge costs a real Nix: issue-level targets stand beside each group. */
export async function prepareSubstitute(): Promise<Benchmark> {
  const world = await createNixWorld();
  try {
    return await prepareIn(world);
  } catch (error) {
    await world[Symbol.asyncDispose]();
    throw error;
  }
}

async function prepareIn(world: NixWorld): Promise<Benchmark> {
  const parts = await buildCorpus(world);
  const paths = [await buildProfile(world, "profile", parts)];
  const xz = await startNginx({ directory: await world.copyToCache(paths, "xz") });
  const none = await startNginx({ directory: await world.copyToCache(paths, "none") });
  const infos = await world.pathInfos(world.store.uri, paths);
  const narBytes = infos.reduce((sum, { narSize }) => sum + narSize, 0);
  const overLink: Upstream = async (work) => {
    await using relay = await startShapingRelay(xz.url, LINK);
    return { ...(await work(relay.url)), down: relay.bytesDown };
  };
  const warm = await startBridge(world, world.temporary("warm"), xz.url);
  await substitute(world, paths, warm.url);
  return {
    corpus: { paths: infos.length, narBytes, packages: PACKAGES.join(" ") },
    async close() {
      for (const resource of [warm, none, xz, world]) await resource[Symbol.asyncDispose]();
    },
    groups: [
      {
        name: "cold from plain xz, loopback",
        cases: coldCases(world, paths, async (work) => await work(xz.url)),
        targets: { bridge: 1.35 },
      },
      {
        name: "cold from plain xz, 100 Mbit/s and 20 ms",
        cases: coldCases(world, paths, overLink),
        targets: { bridge: 1.05 },
      },
      {
        // Nothing says that one will be asked for after the other: none is fetched early.
        name: "the same as paths of which none refers to another",
        cases: coldCases(world, parts, overLink),
      },
      {
        name: "already local, against nginx serving NARs uncompressed",
        cases: [
          { name: "nix", measure: () => substitute(world, paths, none.url) },
          { name: "bridge", measure: () => substitute(world, paths, warm.url) },
        ],
        targets: { bridge: 1.15 },
      },
    ],
  };
}

type Upstream = (work: (url: string) => Promise<Measures>) => Promise<Measures>;

function coldCases(world: NixWorld, paths: readonly string[], upstream: Upstream): Case[] {
  return [
    { name: "nix", measure: () => upstream((url) => substitute(world, paths, url)) },
    {
      name: "bridge",
      measure: () =>
        upstream(async (url) => {
          const store = world.temporary("bridge");
          try {
            await using bridge = await startBridge(world, store, url);
            const measures = await substitute(world, paths, bridge.url);
            return { ...measures, cpu: bridge.cpuSeconds(), mebibytes: bridge.memoryPeak >> 20 };
          } finally {
            await rm(store, { recursive: true, force: true });
          }
        }),
    },
  ];
}

function startBridge(world: NixWorld, store: string, upstream: string) {
  const key = ["--trusted-public-key", world.publicKey];
  return startCastore("bridge", ["--store", store, "--upstream", upstream, ...key]);
}

/** One `nix-store -r` into a new store, which is removed afterwards. */
async function substitute(world: NixWorld, paths: readonly string[], url: string) {
  const into = world.createStore();
  try {
    return { seconds: await timed(() => world.substitute(paths, { urls: [url], into })) };
  } finally {
    await rm(into.root, { recursive: true, force: true });
  }
}

/** Each package a path of its own, and the closure of the end-to-end tests for its references. */
async function buildCorpus(world: NixWorld): Promise<readonly string[]> {
  const paths = [await world.build("app", { bigBytes: "1000000" })];
  for (const name of PACKAGES) {
    const directory = join(repositoryRoot(), "node_modules", name);
    if (!existsSync(directory)) throw new Error(`${directory} is missing: npm ci`);
    const args = ["--store", world.store.uri, "--name", name.replace("@", ""), directory];
    paths.push((await world.run("nix", ["store", "add-path", ...args])).stdout.trim());
  }
  return paths;
}
