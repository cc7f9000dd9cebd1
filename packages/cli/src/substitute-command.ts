import { parseAbsoluteStorePath, storePathHash, substituteClosure } from "@castore/nar-bridge";
import { Command } from "commander";
import { addUpstreamOptions } from "./bridge-command.ts";
import { formatBytes, nodeJson, printJson } from "./print.ts";
import { createProgress } from "./progress.ts";
import { logLine } from "./run-server.ts";
import { openStore, openSubstituter, type StoreOptions, type UpstreamOptions } from "./stack.ts";

interface SubstituteOptions extends StoreOptions, UpstreamOptions {
  readonly closure: boolean;
  readonly json?: boolean;
}

export function substituteCommand(): Command {
  const command = new Command("substitute")
    .description("Fetch store paths and all they refer to into the local store, without Nix.")
    .option("--store <dir>", "local store ($CASTORE_STORE or your cache directory)")
    .option("--no-closure", "only the paths named, not what they refer to")
    .option("--json", "one JSON line for each path")
    .argument("<storepath...>", "absolute store paths");
  return addUpstreamOptions(command).action(async (paths: readonly string[]) => {
    const options = command.opts<SubstituteOptions>();
    const storeHashes = paths.map((path) => storePathHash(parseAbsoluteStorePath(path)));
    await using opened = await openStore(options);
    await using stack = await openSubstituter(opened, options, logLine);
    const abort = new AbortController();
    process.once("SIGINT", () => abort.abort(new Error("interrupted")));
    using progress = createProgress("substituting");
    const query = { storeHashes, closure: options.closure };
    const { signal } = abort;
    for await (const done of substituteClosure(stack.substituter, query, { signal })) {
      const { pathInfo, isPresent, total } = done;
      progress.update({ done: done.done, total, bytes: pathInfo.narSize });
      const { storePath, node, narHash, narSize } = pathInfo;
      if (options.json === true) {
        printJson({
          path: `/nix/store/${storePath}`,
          node: nodeJson(node),
          narHash,
          narSize,
          isPresent,
        });
      } else if (!isPresent) {
        process.stdout.write(`/nix/store/${storePath} ${formatBytes(narSize)}\n`);
      }
    }
  });
}
