import {
  formatStorePath,
  parseAbsoluteStorePath,
  type SubstitutedPath,
  storePathHash,
  substituteClosure,
} from "@castore/nar-bridge";
import { Command } from "commander";
import { addUpstreamOptions } from "./bridge-command.ts";
import { openCache, type StoreOptions } from "./local-store.ts";
import { formatBytes, nodeJson, printJson } from "./print.ts";
import { createProgress } from "./progress.ts";
import { logLine } from "./run-server.ts";
import { parseSize } from "./settings.ts";
import { openSubstituter, type UpstreamOptions } from "./stack.ts";
import { localStoreOption } from "./store-command.ts";

interface SubstituteOptions extends StoreOptions, UpstreamOptions {
  readonly closure: boolean;
  readonly json?: boolean;
}

export function substituteCommand(): Command {
  const command = new Command("substitute")
    .description("Fetch store paths and all they refer to into the local store, without Nix.")
    .addOption(localStoreOption())
    .option("--store-max-size <size>", "evict the least recently used above this", parseSize)
    .option("--no-closure", "only the paths named, not what they refer to")
    .option("--json", "one JSON line for each path")
    .argument("<storepath...>", "absolute store paths");
  return addUpstreamOptions(command).action(async (paths: readonly string[]) => {
    const options = command.opts<SubstituteOptions>();
    const storeHashes = paths.map((path) => storePathHash(parseAbsoluteStorePath(path)));
    await using opened = await openCache(options);
    await using stack = await openSubstituter(opened, options, logLine);
    const abort = new AbortController();
    process.once("SIGINT", () => abort.abort(new Error("interrupted")));
    const query = { storeHashes, closure: options.closure };
    let bytes = 0;
    let count = 0;
    {
      using progress = createProgress("substituting");
      const isQuiet = progress.isShown && process.stdout.isTTY;
      const { signal } = abort;
      for await (const step of substituteClosure(stack.substituter, query, { signal })) {
        const { narSize } = step.pathInfo;
        count++;
        if (!step.isPresent) bytes += narSize;
        const saved = Math.max(0, bytes - stack.received());
        progress.update({ done: step.done, total: step.total, bytes, saved });
        if (options.json === true) printJson(jsonOf(step));
        else if (!step.isPresent && !isQuiet) {
          process.stdout.write(`${step.pathInfo.storePath} ${formatBytes(narSize)}\n`);
        }
      }
    }
    const received = formatBytes(stack.received());
    process.stderr.write(`${count} paths, ${formatBytes(bytes)} new, ${received} received\n`);
  });
}

function jsonOf({ pathInfo, isPresent }: SubstitutedPath): unknown {
  const { storeDir, storePath, node, narHash, narSize } = pathInfo;
  const path = formatStorePath(storePath, storeDir);
  return { path, node: nodeJson(node), narHash, narSize, isPresent };
}
