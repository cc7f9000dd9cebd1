import { execFile } from "node:child_process";
import { promisify } from "node:util";

const execute = promisify(execFile);

/** Of Node and V8. Which of the last ones there are depends on V8's release. */
const OPTIONS = [
  // 74 MB instead of 140, measured, together with malloc's settings in serve-store.
  ...["--min-semi-space-size=4", "--max-semi-space-size=4", "--optimize-for-size"],
  "--v8-pool-size=1",
  // Most of a machine's code runs for the first time: without the compiler between interpreter and
  // optimizer a system is up after three quarters of the CPU, measured with an emulated processor.
  "--no-sparkplug",
  // The optimizer waits for what has run often: a seventh less again, with Node 20.
  "--interrupt-budget=3000000",
];

/** The options for the store server of a machine that this runtime knows, which runs it there. */
export async function runtimeOptions(): Promise<string[]> {
  const known: string[] = [];
  for (const option of OPTIONS) {
    const trial = execute(process.execPath, [option, "-e", ""]);
    await trial.then(
      () => known.push(option),
      () => {}, // it refuses to start
    );
  }
  return known;
}
