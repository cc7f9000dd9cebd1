import { setMaxListeners } from "node:events";
import { readFileSync } from "node:fs";
import { CastoreError } from "@castore/castore";
import { Command, CommanderError } from "commander";
import { bridgeCommand } from "./bridge-command.ts";
import { importCommand, importNarCommand } from "./import-command.ts";
import { gcCommand, rootCommand, statsCommand } from "./keep-commands.ts";
import { catCommand, lsCommand, pathInfoCommand, renderCommand } from "./read-commands.ts";
import { serveCommand } from "./serve-command.ts";
import { substituteCommand } from "./substitute-command.ts";

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;

const { version } = JSON.parse(
  readFileSync(new URL("../package.json", import.meta.url), "utf8"),
) as { version: string };

const PROGRAM_HELP = `
Most people want one thing: run "castore bridge", and put it first in nix.conf:

  substituters = http://127.0.0.1:9000 https://cache.nixos.org
  narinfo-cache-negative-ttl = 0

An ENTRY is a root node as "castore import" prints it. Exit codes: 0 done, 1 failed, 2 usage.`;

function createProgram(): Command {
  const program = new Command("castore")
    .description("A content-addressed store client for Nix: fetch only what changed.")
    .version(version)
    .addHelpText("after", PROGRAM_HELP);
  const commands = [
    bridgeCommand(),
    serveCommand(),
    substituteCommand(),
    importCommand(),
    importNarCommand(),
    renderCommand(),
    lsCommand(),
    catCommand(),
    pathInfoCommand(),
    statsCommand(),
    rootCommand(),
    gcCommand(),
  ];
  for (const command of commands) program.addCommand(command);
  // A sub-command does not inherit these: without them it would exit by itself, with another code.
  const nested = commands.flatMap((command) => command.commands);
  for (const command of [program, ...commands, ...nested]) {
    command.showHelpAfterError("(add --help to see what there is)").exitOverride();
  }
  return program;
}

async function main(): Promise<number> {
  try {
    await createProgram().parseAsync(process.argv);
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_USAGE;
    if (error instanceof CastoreError) {
      process.stderr.write(`castore: ${error.message}\n`);
      return EXIT_FAILED;
    }
    process.stderr.write(`castore: ${error instanceof Error ? error.stack : String(error)}\n`);
    return EXIT_FAILED;
  }
}

// A reader that has seen enough, as in "castore ls … | head", is no failure.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});
// One signal ends hundreds of puts and requests: that many listeners are meant.
setMaxListeners(0);
process.exitCode = await main();
