import { cp, mkdir, readFile, readlink, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
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
  type VirtualMachine,
} from "../test/support/virtual-machine.ts";
import type { Benchmark, BenchmarkOptions, Measures } from "./benchmark.ts";
import { startShapingRelay } from "./shaping-relay.ts";

const LINK = { bitsPerSecond: 100e6, roundTripMs: 20 };
const MEMORY_MIB = 6_000;
const SMALL_BYTES = 300e6;
const LARGE_BYTES = 1_500e6;
const SHARE_BYTES = 60e6;
const ZSTD_LEVEL = 19;
/** Of an initrd with a whole closure: 19 would take an hour. */
const PACKED_ZSTD_LEVEL = 9;
/** What a machine sends of its boot waits for a signal. */
const TRACE_LATER = "castore.trace-after=1000000";
const MIB = 2 ** 20;

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
    const corpus = {
      ...{ smallBytes: small.bytes, smallFiles: small.files, smallXzBytes: small.xzBytes },
      ...{ largeBytes: large.bytes, largeFiles: large.files, largeXzBytes: large.xzBytes },
      memoryMib: MEMORY_MIB,
    };
    return {
      corpus,
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
            lazy: { storeBytes: large.xzBytes / 10, ...IN_MEMORY },
            "lazy, with a profile": { storeRequests: 50, ...IN_MEMORY },
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

/** Limits of what a booted machine spends on its store. */
const IN_MEMORY = { serverAnonBytes: 100 * MIB, runtimeBytes: 120 * MIB };

interface Site {
  readonly servers: Readonly<Record<"packed" | "lazy" | "profiled", CastoreProcess>>;
  /** Of the closure. */
  readonly bytes: number;
  readonly files: number;
  /** Of the closure's NARs: one of the shares, which are alike by chance, stands for all. */
  readonly xzBytes: number;
}

async function prepareSite(world: NixWorld, bytes: number): Promise<Site> {
  // For a try the initrd need not be small.
  const compression = bytes < SMALL_BYTES ? 1 : ZSTD_LEVEL;
  const shares = Math.max(1, Math.round(bytes / SHARE_BYTES));
  const shareBytes = Math.round(bytes / shares);
  const site = await createNetbootSite(world, {
    compression,
    expression: join(repositoryRoot(), "bench/bulk-system.nix"),
    args: { shares: `${shares}`, shareBytes: `${shareBytes}` },
  });
  const traces = world.temporary("traces");
  await mkdir(traces);
  const later = ["--command-line", `${MACHINE_COMMAND_LINE} ${TRACE_LATER}`];
  const lazy = await site.serve(["--traces", traces, ...later]);
  const profile = world.temporary("profile");
  await recordProfile(world, lazy, { traces, profile });
  const profiled = await site.serve(["--profile", profile]);
  const packed = await startCastore("netboot serve", [
    ...["--boot", await packWhole(world, site), "--command-line", MACHINE_COMMAND_LINE],
    ...["--store", world.temporary("empty")],
  ]);
  return { servers: { packed, lazy, profiled }, ...(await sizesOf(world, site, shares)) };
}

async function sizesOf(world: NixWorld, { system }: NetbootSite, shares: number) {
  const within = (name: string) => join(world.store.fileOf(system), name);
  const [share = ""] = (await readFile(within("shares"), "utf8")).trim().split(" ");
  const machine = dirname(await readlink(within("init")));
  const xz = async (path: string) => {
    const nar = join(await world.copyToCache([path], "xz"), "nar");
    return Number((await world.run("du", ["-sb", nar])).stdout.split("\t")[0]);
  };
  const infos = await world.pathInfos(world.store.uri, [system]);
  const trees = infos.map(({ path }) => world.store.fileOf(path));
  const list = await world.run("find", [...trees, "-type", "f", "-printf", "."]);
  return {
    bytes: infos.reduce((sum, { narSize }) => sum + narSize, 0),
    files: list.stdout.length,
    xzBytes: (await xz(machine)) + shares * (await xz(share)),
  };
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
  await machine.run("killall sleep");
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
  const { bytesDown: linkBytes } = relay;
  const after = await sent(server);
  const storeBytes = after.storeBytes - before.storeBytes;
  const storeRequests = after.storeRequests - before.storeRequests;
  const spent = storeRequests === 0 ? {} : await storeMemory(machine);
  return { seconds, linkBytes, storeBytes, storeRequests, ...spent };
}

/** What the store server of a machine takes of its memory; and its program, with all it loads. */
async function storeMemory(machine: VirtualMachine): Promise<Measures> {
  const each = "case $(head -c 8 $p/cmdline) in @castore) echo $p;; esac";
  const found = await machine.run(`for p in /proc/[0-9]*; do ${each}; done`);
  const [server = ""] = found.trim().split("\n");
  const anon = /(\d+) kB/.exec(await machine.run(`grep RssAnon ${server}/status`));
  const parts = ["bin", "castore", "lib", "lib64"].map((name) => `${server}/root/${name}`);
  const runtime = /(\d+)\ttotal/.exec(await machine.run(`du -skc ${parts.join(" ")} 2>/dev/null`));
  const bytes = (match: RegExpExecArray | null) => Number(match?.[1]) * 1024;
  return { serverAnonBytes: bytes(anon), runtimeBytes: bytes(runtime) };
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
