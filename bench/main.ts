import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, loadavg, totalmem } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { repositoryRoot } from "../test/support/repository-root.ts";
import type { Benchmark, BenchmarkOptions, Group } from "./benchmark.ts";
import { formatGroup, type GroupReport, runGroup } from "./interleave.ts";

const USAGE = `usage: npm run bench -- NAME [--runs N] [--only TEXT] [--cases TEXT,…]
                               [--scale F]

  engine       the local store: import, import-nar, render, lookups, gc; chunking
  netboot      a machine in QEMU from power-on until its system answers, against an initrd with all
  serve        castore serve to 16 clients at once, against nginx; and to 64, 8 of them slow
  mount        reading through castore mount, beside native and other FUSE servers; python3 lazily
  substitute   nix-store -r directly and through the bridge: loopback, 100 Mbit/s, already local
  update       nix-store -r of updates and first downloads over 100 Mbit/s and 20 ms, plainly and
               through the bridge: bytes, requests, seconds (bench/corpus.json; 600 MB of disk)

  --runs N     runs of each case, interleaved; medians are reported (default 5)
  --only TEXT  only the groups whose name contains TEXT
  --cases TEXT,…  of these only the first case of each, and those whose name contains a TEXT: a long
               group in portions, each against the same
  --scale F    factor of the sizes of all but "substitute" (default 1; 0.01 for a try)`;

const benchmarks: Readonly<Record<string, (options: BenchmarkOptions) => Promise<Benchmark>>> = {
  engine: async (options) => (await import("./engine.ts")).prepareEngine(options),
  netboot: async (options) => (await import("./netboot.ts")).prepareNetboot(options),
  serve: async (options) => (await import("./serve.ts")).prepareServe(options),
  mount: async (options) => (await import("./mount.ts")).prepareMount(options),
  update: async (options) => (await import("./update.ts")).prepareUpdate(options),
  substitute: async () => (await import("./substitute.ts")).prepareSubstitute(),
};

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      runs: { type: "string", default: "5" },
      only: { type: "string", default: "" },
      cases: { type: "string", default: "" },
      scale: { type: "string", default: "1" },
    },
  });
  const [name = ""] = positionals;
  const prepare = benchmarks[name];
  const runs = Number(values.runs);
  const scale = Number(values.scale);
  if (prepare === undefined || !(runs >= 1) || !(scale > 0)) {
    console.error(USAGE);
    return 2;
  }
  const benchmark = await prepare({ scale });
  const reports: GroupReport[] = [];
  const failed: string[] = [];
  const file = reportFile(name);
  try {
    const groups = benchmark.groups.filter((group) => group.name.includes(values.only));
    for (const group of groups.map((group) => casesOf(group, values.cases.split(",")))) {
      try {
        const report = await runGroup(group, runs);
        reports.push(report);
        console.log(formatGroup(report));
      } catch (error) {
        // The others are worth measuring all the same.
        failed.push(group.name);
        console.error(`\n${group.name}: failed:`, error);
      }
      // An hour's work is not lost with the last group.
      const report = { machine: machine(), corpus: benchmark.corpus, groups: reports, failed };
      writeFileSync(file, `${JSON.stringify(report, undefined, 2)}\n`);
    }
  } finally {
    await benchmark.close();
  }
  const over = reports.filter(({ isMet }) => !isMet).map((report) => report.name);
  console.log(`\n${reports.length} groups measured, written: ${file}`);
  if (over.length > 0) console.log(`over their targets: ${over.join("; ")}`);
  if (failed.length > 0) console.log(`failed: ${failed.join("; ")}`);
  return over.length + failed.length === 0 ? 0 : 1;
}

/** A group with its first case, and those whose name contains one of `texts`. */
function casesOf(group: Group, texts: readonly string[]): Group {
  const cases = group.cases.filter(
    ({ name }, index) => index === 0 || texts.some((text) => name.includes(text)),
  );
  return { ...group, cases };
}

function machine() {
  const { node, v8 } = process.versions;
  const gibibytes = Math.round(totalmem() / 2 ** 30);
  return { cpu: cpus()[0]?.model, cores: cpus().length, gibibytes, node, v8, loadavg: loadavg() };
}

function reportFile(name: string): string {
  const directory = join(repositoryRoot(), "bench/results");
  mkdirSync(directory, { recursive: true });
  const stamp = new Date().toISOString().replace(/[:.]/g, "-");
  return join(directory, `${name}-${stamp}.json`);
}

process.exitCode = await main();
