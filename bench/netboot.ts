import { cp, mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type CastoreProcess, runCastore, startCastore } from "../test/support/castore-process.ts";
import {
  createNetbootSite,
  machineStatus,
  type NetbootSite,
} from "../test/support/netboot-site.ts";
import { createNixWorld, type NixWorld } from "../test/support/nix-world.ts";
import { repositoryRoot } from "../test/support/repository-root.ts";
import {
  MACHINE_COMMAND_LINE,
  machineParts,
  startMachine,
} from "../test/support/virtual-machine.ts";
import type { Benchmark, BenchmarkOptions, Measures } from "./benchmark.ts";
import { startShapingRelay } from "./shaping-relay.ts";

const LINK = { bitsPerSecond: 100e6, roundTripMs: 20 };
const MEMORY_MIB = 6_000;
const SMALL_BYTES = 300e6;
const LARGE_BYTES = 1_500e6;
const ZSTD_LEVEL = 19;
/** Of an initrd with a closure of noise: more takes long and saves nothing. */
const PACKED_ZSTD_LEVEL = 3;

/** From power-on until a machine's system answers: its store lazily, and packed into an initrd. */
export async function prepareNetboot({ scale }: BenchmarkOptions): Promise<Benchmark> {
  const world = await createNixWorld();
  const sites: Site[] = [];
  const close = async () => {
    for (const { servers } of sites) {
      for (const server of Object.values(servers)) await server[Symbol.asyncDispose]();
    }
    await world[Symbol.asyncDispose]();
  };
  try {
    const small = await prepareSite(world, SMALL_BYTES * scale);
    sites.push(small);
    const large = await prepareSite(world, LARGE_BYTES * scale);
    sites.push(large);
    const boot = (name: string, server: CastoreProcess) => ({
      name,
      measure: () => bootOnce(world, server),
    });
    return {
      corpus: { smallXzBytes: small.xzBytes, largeXzBytes: large.xzBytes, memoryMib: MEMORY_MIB },
      close,
      groups: [
        {
          name: "large closure, 100 Mbit/s and 20 ms, from power-on",
          cases: [
            boot("packed whole into an initrd", large.servers.packed),
            boot("lazy", large.servers.lazy),
            boot("lazy, with a profile", large.servers.profiled),
          ],
          targets: { lazy: 0.5, "lazy, with a profile": 0.4 },
          limits: {
            lazy: { storeBytes: large.xzBytes / 10 },
            "lazy, with a profile": { storeRequests: 50 },
          },
        },
        {
          name: "lazy, a closure five times as large",
          cases: [boot("small", small.servers.lazy), boot("large", large.servers.lazy)],
          targets: { large: 1.1 },
          limits: { small: { storeBytes: small.xzBytes / 10 } },
        },
      ],
    };
  } catch (error) {
    await close();
    throw error;
  }
}

interface Site {
  readonly servers: Readonly<Record<"packed" | "lazy" | "profiled", CastoreProcess>>;
  /** Of the closure's NARs. */
  readonly xzBytes: number;
}

async function prepareSite(world: NixWorld, ballastBytes: number): Promise<Site> {
  // For a try the initrd need not be small.
  const compression = ballastBytes < SMALL_BYTES ? 1 : ZSTD_LEVEL;
  const options = { ballastBytes: Math.round(ballastBytes), compression };
  const site = await createNetbootSite(world, options);
  const traces = world.temporary("traces");
  await mkdir(traces);
  const lazy = await site.serve(["--traces", traces]);
  const profile = world.temporary("profile");
  await recordProfile(world, lazy, { traces, profile });
  const profiled = await site.serve(["--profile", profile]);
  const packed = await startCastore("netboot serve", [
    ...["--boot", await packWhole(world, site), "--command-line", MACHINE_COMMAND_LINE],
    ...["--store", world.temporary("empty")],
  ]);
  const cache = await world.copyToCache([site.system], "xz");
  const xzBytes = Number(
    (await world.run("du", ["-sb", join(cache, "nar")])).stdout.split("\t")[0],
  );
  return { servers: { packed, lazy, profiled }, xzBytes };
}

/** One boot after which the machine sends what it touched. */
async function recordProfile(
  world: NixWorld,
  server: CastoreProcess,
  { traces, profile }: { readonly traces: string; readonly profile: string },
): Promise<void> {
  const log = world.temporary("console");
  await using machine = await startMachine({ script: `${server.url}/boot.ipxe`, log });
  await machine.answer("/");
  const trace = join(traces, "52-54-00-12-34-56.trace");
  while ((await stat(trace).catch(() => undefined)) === undefined) {
    await new Promise((resolve) => setTimeout(resolve, 1_000));
  }
  const made = await runCastore(["netboot", "profile", trace, "--out", profile]);
  if (made.code !== 0) throw new Error(made.stderr);
}

async function bootOnce(world: NixWorld, server: CastoreProcess): Promise<Measures> {
  const before = await sent(server);
  await using relay = await startShapingRelay(server.url, LINK);
  const start = performance.now();
  const log = world.temporary("console");
  const script = `${relay.url}/boot.ipxe`;
  await using machine = await startMachine({ script, memory: MEMORY_MIB, log });
  await machine.answer("/");
  const seconds = (performance.now() - start) / 1000;
  const after = await sent(server);
  return {
    seconds,
    linkBytes: relay.bytesDown,
    storeBytes: after.storeBytes - before.storeBytes,
    storeRequests: after.storeRequests - before.storeRequests,
  };
}

/** What the server sent so far; its machines share an address. */
async function sent({ url }: CastoreProcess) {
  const { storeBytes = 0, storeRequests = 0 } = (await machineStatus(url)) ?? {};
  return { storeBytes, storeRequests };
}

/** A kernel, and an initrd with all of the closure. */
async function packWhole(world: NixWorld, { system }: NetbootSite): Promise<string> {
  const { kernel, modules } = machineParts();
  const tree = world.temporary("tree");
  await mkdir(join(tree, "nix/store"), { recursive: true });
  await mkdir(join(tree, "bin"));
  for (const name of ["modules", "etc"]) await mkdir(join(tree, name));
  const netboot = join(repositoryRoot(), "packages/cli/netboot");
  await cp("/bin/busybox", join(tree, "bin/busybox"));
  await cp(join(netboot, "dhcp"), join(tree, "dhcp"));
  await writeFile(join(tree, "system"), system);
  const init = await readFile(join(repositoryRoot(), "bench/packed-initrd.sh"));
  await writeFile(join(tree, "init"), init, { mode: 0o755 });
  for (const { path } of await world.pathInfos(world.store.uri, [system])) {
    await world.run("cp", ["-a", world.store.fileOf(path), join(tree, "nix/store/")]);
  }
  for (const name of ["net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net"]) {
    const from = join(modules, "kernel", `${name}.ko.xz`);
    const to = join(tree, "modules", `${name.split("/").at(-1)}.ko`);
    await world.run("sh", ["-c", `xz -dc '${from}' > '${to}'`]);
  }
  const boot = world.temporary("boot-packed");
  await mkdir(boot);
  await cp(kernel, join(boot, "kernel"));
  const pack = `cd '${tree}'; find . | busybox cpio -o -H newc 2>/dev/null`;
  const compress = `zstd -q -T0 -${PACKED_ZSTD_LEVEL} -o '${boot}/initrd'`;
  await world.run("bash", ["-c", `${pack} | ${compress}`]);
  return boot;
}
