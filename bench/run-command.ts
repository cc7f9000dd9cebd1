import type { NixWorld } from "../test/support/nix-world.ts";
import type { Measures } from "./benchmark.ts";

export interface CommandRun {
  readonly stdout: string;
  readonly measures: Measures;
}

/** Runs bash's `script` and times it: seconds, and CPU seconds of all processes it waited for. */
export async function runCommand(world: NixWorld, script: string): Promise<CommandRun> {
  const timed = `set -e -o pipefail; TIMEFORMAT='%3R %3U %3S'; time { ${script}\n}`;
  const { stdout, stderr } = await world.run("bash", ["-c", timed]);
  const times = stderr.trim().split("\n").at(-1)?.split(" ").map(Number) ?? [];
  const [seconds = Number.NaN, user = Number.NaN, system = Number.NaN] = times;
  return { stdout, measures: { seconds, cpu: user + system } };
}
