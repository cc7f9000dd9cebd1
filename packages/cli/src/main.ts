import { readFileSync } from "node:fs";
import { Command } from "commander";
import { runProgram } from "./run-program.ts";

/** Each command and the module that makes it: only the one that is run is loaded. */
const COMMANDS: readonly (readonly [
  name: string,
  summary: string,
  load: () => Promise<Command>,
])[] = [
  [
    "bridge",
    "run the local substituter that Nix asks first",
    async () => (await import("./bridge-command.ts")).bridgeCommand(),
  ],
  [
    "serve",
    "serve the local store as a binary cache, castore/1 included",
    async () => (await import("./serve-command.ts")).serveCommand(),
  ],
  [
    "mount",
    "mount store paths, fetched when they are looked at",
    async () => (await import("./mount-command.ts")).mountCommand(),
  ],
  ["umount", "take a mount away", async () => (await import("./mount-command.ts")).umountCommand()],
  [
    "netboot",
    "boot machines whose store is mounted from a cache",
    async () => (await import("./netboot-command.ts")).netbootCommand(),
  ],
  [
    "substitute",
    "fetch store paths and all they refer to, without Nix",
    async () => (await import("./substitute-command.ts")).substituteCommand(),
  ],
  [
    "export",
    "write closures into a directory that any web server makes a cache",
    async () => (await import("./export-command.ts")).exportCommand(),
  ],
  [
    "import",
    "put files and directories into a store",
    async () => (await import("./import-command.ts")).importCommand(),
  ],
  [
    "import-nar",
    "put the contents of a NAR into a store",
    async () => (await import("./import-command.ts")).importNarCommand(),
  ],
  [
    "render",
    "write the NAR of a root to stdout",
    async () => (await import("./read-commands.ts")).renderCommand(),
  ],
  [
    "ls",
    "list a directory, or show what one file is",
    async () => (await import("./read-commands.ts")).lsCommand(),
  ],
  [
    "cat",
    "write a file's contents to stdout",
    async () => (await import("./read-commands.ts")).catCommand(),
  ],
  [
    "path-info",
    "show what is known of store paths",
    async () => (await import("./read-commands.ts")).pathInfoCommand(),
  ],
  [
    "explain",
    "show what store paths cost to fetch, and why",
    async () => (await import("./explain-command.ts")).explainCommand(),
  ],
  [
    "stats",
    "show what the local store holds",
    async () => (await import("./keep-commands.ts")).statsCommand(),
  ],
  [
    "seed",
    "note the files of /nix/store, in place, as a source of chunks",
    async () => (await import("./check-commands.ts")).seedCommand(),
  ],
  [
    "fsck",
    "verify the local store, and repair it",
    async () => (await import("./check-commands.ts")).fsckCommand(),
  ],
  [
    "root",
    "keep store paths and entries from being collected",
    async () => (await import("./keep-commands.ts")).rootCommand(),
  ],
  [
    "gc",
    "delete what no store path, root or lease needs",
    async () => (await import("./keep-commands.ts")).gcCommand(),
  ],
  [
    "bench",
    "measure what deduplication would save on a binary cache",
    async () => (await import("./bench-command.ts")).benchCommand(),
  ],
];

const { version } = JSON.parse(
  readFileSync(new URL("../package.json", import.meta.url), "utf8"),
) as { version: string };

const PROGRAM_HELP = `
Most people want one thing: run "castore bridge", and put it first in nix.conf:

  substituters = http://127.0.0.1:9000 https://cache.nixos.org
  narinfo-cache-negative-ttl = 0

An ENTRY is a root node as "castore import" prints it. "castore COMMAND --help" says more.
Exit codes: 0 done, 1 failed, 2 usage.`;

async function createProgram(wanted: string | undefined): Promise<Command> {
  const program = new Command("castore")
    .description("A content-addressed store client for Nix: fetch only what changed.")
    .version(version)
    .addHelpText("after", PROGRAM_HELP);
  for (const [name, summary, load] of COMMANDS) {
    const command = name === wanted ? await load() : new Command(name);
    program.addCommand(command.summary(summary));
  }
  return program;
}

process.exitCode = await runProgram(process.argv, (wanted) => createProgram(wanted));
