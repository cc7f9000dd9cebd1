import { writeFile } from "node:fs/promises";
import { CastoreError } from "@castore/castore";
import { parseTrace } from "@castore/fuse";
import { Command } from "commander";
import { formatTrace, mergeTraces } from "./boot-profile.ts";
import { readInput } from "./initrd.ts";

/** Pieces of a file that are so close are loaded in one. */
const GAP_BYTES = 1 << 20;

export function netbootProfileCommand(): Command {
  const command = new Command("profile")
    .description("Make of traces of boots what later boots load ahead.")
    .requiredOption("--out <file>", "for castore netboot serve --profile")
    .argument("<trace...>", "as castore netboot serve --traces keeps them");
  return command.action(async (files: readonly string[]) => {
    const traces = [];
    for (const file of files) {
      const text = (await readInput(file, "trace")).toString("latin1");
      try {
        traces.push(parseTrace(text));
      } catch (cause) {
        throw new CastoreError("INVALID", `${file}: ${String(cause)}`, { cause });
      }
    }
    const { out } = command.opts<{ readonly out: string }>();
    const merged = mergeTraces(traces, GAP_BYTES);
    await writeFile(out, formatTrace(merged));
    const bytes = merged.reduce((sum, { start, end }) => sum + end - start, 0);
    process.stdout.write(`${merged.length} pieces, ${bytes} bytes\n`);
  });
}
