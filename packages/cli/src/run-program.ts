import { setMaxListeners } from "node:events";
import { type Command, CommanderError } from "commander";

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;

/** Runs `argv` with the program made for its command. Resolves with an exit code. */
export async function runProgram(
  argv: readonly string[],
  createProgram: (wanted: string | undefined) => Promise<Command>,
): Promise<number> {
  // A reader that has seen enough, as in "castore ls … | head", is no failure.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(0);
    throw error;
  });
  // One signal ends hundreds of puts and requests: that many listeners are meant.
  setMaxListeners(0);
  const wanted = argv[2] === "help" ? argv[3] : argv[2];
  try {
    const program = await createProgram(wanted);
    strict(program);
    await program.parseAsync(argv);
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_USAGE;
    const shown = isExpected(error) ? error.message : error instanceof Error && error.stack;
    process.stderr.write(`castore: ${shown || String(error)}\n`);
    return EXIT_FAILED;
  }
}

/** Whether its message says all: the stack is for faults of this program. */
function isExpected(error: unknown): error is Error {
  if (!(error instanceof Error)) return false;
  // By its name: to import the class would load all of castore for "castore --help".
  return error.name === "CastoreError" || "syscall" in error;
}

/** Usage errors are ours to report, from every sub-command; none inherits that from its parent. */
function strict(command: Command): void {
  command.showHelpAfterError("(add --help to see what there is)").exitOverride();
  // The parameters of a service URL may be secret.
  command.configureOutput({
    outputError: (text, write) =>
      write(text.replace(/ (argument|value) '([^'?]*)\?[^']*'/g, " $1 '$2?…'")),
  });
  for (const child of command.commands) strict(child);
}
