import { mkdtempSync } from "node:fs";
import { mkdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type CastoreProcess, runCastore, startCastore } from "../test/support/castore-process.ts";
import { machineStatus } from "../test/support/netboot-site.ts";
import {
  MACHINE_COMMAND_LINE,
  startMachine,
  type VirtualMachine,
} from "../test/support/virtual-machine.ts";
import type { Benchmark, BenchmarkOptions, Measures, Once } from "./benchmark.ts";
import { once } from "./benchmark.ts";
import { buildBoot, type NetbootClosure, netbootClosure } from "./netboot-closure.ts";
import { startShapingRelay } from "./shaping-relay.ts";

const LINK = { bitsPerSecond: 100e6, roundTripMs: 20 };
const MEMORY_MIB = 6_000;
/** As the smallest of machines has. */
const CPUS = 2;
const SMALL_BYTES = 300e6;
const LARGE_BYTES = 1_500e6;
const ZSTD_LEVEL = 19;
/** What a machine sends of its boot waits for a signal. */
const TRACE_LATER = "castore.trace-after=1000000";
const MIB = 2 ** 20;
/** Limits of what a booted machine spends on its store. */
const IN_MEMORY = { serverAnonBytes: 100 * MIB, runtimeBytes: 120 * MIB };

/** From power-on until a machine's system answers: its store lazily, and packed into an initrd. */
export async function prepareNetboot({ scale }: BenchmarkOptions): Promise<Benchmark> {
  const small = await netbootClosure(SMALL_BYTES * scale);
  const large = await netbootClosure(LARGE_BYTES * scale);
  const directory = mkdtempSync(join(tmpdir(), "castore-bench-"));
  // For a try the initrd need not be small.
  const compression = scale < 1 ? 1 : ZSTD_LEVEL;
  const sites = [small, large].map(
    (closure, index) => new Site(closure, join(directory, `${index}`), compression),
  );
  const [smallSite, largeSite] = sites as [Site, Site];
  const boot = (name: string, server: Once<CastoreProcess>) => ({
    name,
    measure: async () => bootOnce(await server(), join(directory, "console")),
  });
  return {
    corpus: {
      ...{ smallBytes: small.bytes, smallFiles: small.files, smallXzBytes: small.xzBytes },
      ...{ largeBytes: large.bytes, largeFiles: large.files, largeXzBytes: large.xzBytes },
      ...{ memoryMib: MEMORY_MIB, cpus: CPUS },
    },
    async close() {
      for (const site of sites) await site.close();
      await rm(directory, { recursive: true, force: true });
    },
    groups: [
      {
        name: "large closure, 100 Mbit/s and 20 ms, from power-on",
        cases: [
          boot("packed whole into an initrd", largeSite.packed),
          boot("lazy", largeSite.lazy),
          boot("lazy, with a profile", largeSite.profiled),
        ],
        targets: { lazy: 0.5, "lazy, with a profile": 0.4 },
        limits: {
          lazy: { storeBytes: large.xzBytes / 10, ...IN_MEMORY },
          "lazy, with a profile": { storeRequests: 50, ...IN_MEMORY },
        },
      },
      {
        name: "lazy, a closure five times as large",
        cases: [boot("small", smallSite.lazy), boot("large", largeSite.lazy)],
        targets: { large: 1.1 },
        limits: { small: { storeBytes: small.xzBytes / 10 } },
      },
    ],
  };
}

/** What machines boot a closure from, each server started when the first machine wants it. */
class Site {
  readonly packed: Once<CastoreProcess>;
  readonly lazy: Once<CastoreProcess>;
  readonly profiled: Once<CastoreProcess>;

  constructor(closure: NetbootClosure, directory: string, compression: number) {
    const within = (name: string) => join(directory, name);
    const commandLine = ["--command-line", MACHINE_COMMAND_LINE];
    const serve = (options: readonly string[]) => startCastore("netboot serve", options);
    const build = once(() => buildBoot(closure, { out: within("boot"), compression }));
    const serveLazily = async (options: readonly string[]) => {
      await build();
      return serve([
        ...["--boot", within("boot"), "--store", closure.store],
        ...["--root-signing-key", closure.rootKeyFile, "--signing-key", closure.secretKeyFile],
        ...options,
      ]);
    };
    this.packed = once(() =>
      serve(["--boot", closure.packed, "--store", within("empty"), ...commandLine]),
    );
    this.lazy = once(() => serveLazily(commandLine));
    this.profiled = once(async () => {
      await mkdir(within("traces"), { recursive: true });
      const later = ["--command-line", `${MACHINE_COMMAND_LINE} ${TRACE_LATER}`];
      {
        await using recorder = await serveLazily(["--traces", within("traces"), ...later]);
        await recordProfile(recorder, directory);
      }
      return serveLazily(["--profile", within("profile"), ...commandLine]);
    });
  }

  async close(): Promise<void> {
    for (const server of [this.packed, this.lazy, this.profiled]) {
      if (server.isMade()) await (await server())[Symbol.asyncDispose]();
    }
  }
}

/** One boot after which the machine sends what it touched; writes "profile" of "traces". */
async function recordProfile(server: CastoreProcess, directory: string): Promise<void> {
  const log = join(directory, "console");
  await using machine = await startMachine({ script: `${server.url}/boot.ipxe`, log });
  await machine.answer("/");
  await machine.run("killall sleep");
  const trace = join(directory, "traces/52-54-00-12-34-56.trace");
  while ((await stat(trace).catch(() => undefined)) === undefined) {
    await new Promise((resolve) => setTimeout(resolve, 1_000));
  }
  const profile = join(directory, "profile");
  const made = await runCastore(["netboot", "profile", trace, "--out", profile]);
  if (made.code !== 0) throw new Error(made.stderr);
}

async function bootOnce(server: CastoreProcess, log: string): Promise<Measures> {
  const before = await sent(server);
  await using relay = await startShapingRelay(server.url, LINK);
  const start = performance.now();
  const script = `${relay.url}/boot.ipxe`;
  await using machine = await startMachine({ script, memory: MEMORY_MIB, cpus: CPUS, log });
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
