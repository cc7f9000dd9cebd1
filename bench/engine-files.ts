import { rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { createNixWorld, type NixWorld } from "../test/support/nix-world.ts";
import { repositoryRoot } from "../test/support/repository-root.ts";
import { type Benchmark, type Case, type Group, type Measures, once } from "./benchmark.ts";
import { runCommand } from "./run-command.ts";
import { writeLargeFile, writeTree } from "./sample-files.ts";

const TREE_FILES = 50_000;
const LARGE_FILE_BYTES = 2e9;
/** The growth groups compare with a corpus so much smaller. */
const GROWTH = 10;

/** Something to import, in the forms that the cases start from, each made when it is wanted. */
interface Sample {
  readonly title: string;
  readonly path: () => Promise<string>;
  readonly nar: () => Promise<string>;
  /** A castore store that holds it, and its ENTRY. */
  readonly stored: () => Promise<{ readonly store: string; readonly entry: string }>;
}

/** `castore import`, `import-nar` and `render` beside what Nix has for the same. */
export async function prepareEngineFiles(scale: number): Promise<Benchmark> {
  const world = await createNixWorld();
  const [tree, small] = [scale, scale / GROWTH].map((factor) => {
    const count = Math.max(1, Math.round(TREE_FILES * factor));
    const title = `${count.toLocaleString("en")} files`;
    return sampleOf(world, title, (path) => writeTree(path, count));
  });
  const [file, smallFile] = [scale, scale / GROWTH].map((factor) => {
    const size = Math.max(1, Math.round(LARGE_FILE_BYTES * factor));
    const title = `one file of ${(size / 1e6).toLocaleString("en")} MB`;
    return sampleOf(world, title, (path) => writeLargeFile(path, size));
  });
  const b3sum = await world.attempt("b3sum", ["--version"]).catch(() => undefined);
  if (b3sum === undefined)
    console.error("b3sum (a package of Debian) is not installed: its rate is left out");
  const groups = [tree, file].flatMap((sample) => {
    if (sample === undefined) return [];
    const rates = sample === file && b3sum !== undefined ? b3sumCases(world, sample) : [];
    return groupsOf(world, sample, rates);
  });
  const growth = [
    [small, tree],
    [smallFile, file],
  ].flatMap((samples) =>
    growthGroups(
      world,
      samples.flatMap((sample) => sample ?? []),
    ),
  );
  const version = (await world.run("nix-store", ["--version"])).stdout.trim();
  return {
    corpus: { nix: version, b3sum: b3sum?.stdout.trim() ?? "none" },
    groups: [...groups, ...growth],
    close: async () => world[Symbol.asyncDispose](),
  };
}

function sampleOf(world: NixWorld, title: string, write: (path: string) => Promise<void>): Sample {
  const path = once(async () => {
    const path = world.temporary("sample");
    await write(path);
    return path;
  });
  const nar = once(async () => {
    const nar = world.temporary("nar");
    await runCommand(world, `nix-store --dump '${await path()}' >'${nar}'`);
    return nar;
  });
  const stored = once(async () => {
    const store = world.temporary("castore");
    const script = `${castore("import")} --store '${store}' '${await path()}'`;
    const { entry }: { entry: string } = JSON.parse((await runCommand(world, script)).stdout);
    return { store, entry };
  });
  return { title, path, nar, stored };
}

function groupsOf(world: NixWorld, sample: Sample, rates: readonly Case[]): Group[] {
  return [
    {
      name: `import, ${sample.title}`,
      cases: [
        {
          name: "nix-store --add; sync",
          measure: async () => {
            const path = await sample.path();
            return await intoNew(world, (into) => {
              const uri = `local?root=${into}`;
              return `nix-store --store '${uri}' --add '${path}' >/dev/null; sync`;
            });
          },
        },
        importCase(world, "castore", sample),
        ...rates,
      ],
      targets: { castore: 1.0 },
    },
    {
      name: `import-nar, ${sample.title}`,
      cases: [
        {
          name: "nix-store --restore; sync",
          measure: async () => {
            const nar = await sample.nar();
            return await intoNew(world, (into) => `nix-store --restore '${into}' <'${nar}'; sync`);
          },
        },
        importNarCase(world, "castore", sample),
      ],
      targets: { castore: 1.2 },
    },
    {
      name: `render, ${sample.title}`,
      cases: [
        {
          name: "nix-store --dump",
          measure: async () => {
            const script = `nix-store --dump '${await sample.path()}' | cat >/dev/null`;
            return (await runCommand(world, script)).measures;
          },
        },
        renderCase(world, "castore", sample),
      ],
      targets: { castore: 2 },
    },
  ];
}

/** The same with `GROWTH` times as much: the ratio says how the cost grows. */
function growthGroups(world: NixWorld, samples: readonly Sample[]): Group[] {
  const kinds = { import: importCase, "import-nar": importNarCase, render: renderCase };
  const largest = samples.at(-1)?.title ?? "";
  return Object.entries(kinds).map(([kind, caseOf]) => ({
    name: `growth of ${kind} to ${largest}`,
    cases: samples.map((sample) => caseOf(world, sample.title, sample)),
  }));
}

function importCase(world: NixWorld, name: string, sample: Sample): Case {
  return {
    name,
    measure: async () => {
      const path = await sample.path();
      return await intoNew(world, (into) => {
        return `${castore("import")} --store '${into}' '${path}' >/dev/null`;
      });
    },
  };
}

function importNarCase(world: NixWorld, name: string, sample: Sample): Case {
  return {
    name,
    measure: async () => {
      const nar = await sample.nar();
      return await intoNew(world, (into) => {
        return `${castore("import-nar")} --store '${into}' '${nar}' >/dev/null`;
      });
    },
  };
}

function renderCase(world: NixWorld, name: string, sample: Sample): Case {
  return {
    name,
    measure: async () => {
      const { store, entry } = await sample.stored();
      const script = `${castore("render")} --store '${store}' '${entry}' | cat >/dev/null`;
      return (await runCommand(world, script)).measures;
    },
  };
}

function b3sumCases(world: NixWorld, sample: Sample): Case[] {
  return ["", " --num-threads 1"].map((threads) => ({
    name: `b3sum${threads}`,
    measure: async (): Promise<Measures> => {
      const path = await sample.path();
      const { measures } = await runCommand(world, `b3sum${threads} '${path}' >/dev/null`);
      const megabytes = (await stat(path)).size / 1e6;
      return { ...measures, megabytesPerSecond: megabytes / (measures.seconds ?? 0) };
    },
  }));
}

/** What a command takes that writes into a new place, which is removed; nothing else is dirty. */
async function intoNew(world: NixWorld, script: (into: string) => string): Promise<Measures> {
  const into = world.temporary("into");
  await world.run("sync", []);
  try {
    return (await runCommand(world, script(into))).measures;
  } finally {
    await rm(into, { recursive: true, force: true });
  }
}

function castore(command: string): string {
  const program = join(repositoryRoot(), "packages/cli/bin/castore.js");
  return `'${process.execPath}' '${program}' ${command}`;
}
