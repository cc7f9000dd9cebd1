import { readFileSync } from "node:fs";
import { CastoreError } from "@castore/castore";
import { Command, CommanderError } from "commander";

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;

const { version } = JSON.parse(
  readFileSync(new URL("../package.json", import.meta.url), "utf8"),
) as { version: string };

function createProgram(): Command {
  const program = new Command("castore")
    .description("A content-addressed store client for Nix.")
    .version(version)
    .showHelpAfterError("(castore --help shows what there is)")
    .configureHelp({ sortSubcommands: false })
    .exitOverride();
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

process.exitCode = await main();
