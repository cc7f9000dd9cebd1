import { createReadStream } from "node:fs";
import { ingestTree } from "@castore/castore";
import { calculateNar, ingestNar } from "@castore/nar-bridge";
import { Command } from "commander";
import { printImported } from "./print.ts";
import { openStore, type StoreOptions } from "./stack.ts";

export function importCommand(): Command {
  const command = new Command("import")
    .description("Put files and directories into the local store; prints one JSON line for each.")
    .option("--store <dir>", "local store ($CASTORE_STORE or your cache directory)")
    .option("--json", "JSON lines, which is also the default")
    .argument("<path...>", "files or directories");
  return command.action(async (paths: readonly string[]) => {
    await using opened = await openStore(command.opts<StoreOptions>());
    const { store } = opened;
    for (const path of paths) {
      const node = await ingestTree(path, store);
      printImported(path, node, await calculateNar(node, store));
    }
  });
}

export function importNarCommand(): Command {
  const command = new Command("import-nar")
    .description("Put the contents of a NAR (uncompressed) into the local store.")
    .option("--store <dir>", "local store ($CASTORE_STORE or your cache directory)")
    .option("--json", "a JSON line, which is also the default")
    .argument("<file>", 'the NAR; "-" reads stdin');
  return command.action(async (file: string) => {
    await using opened = await openStore(command.opts<StoreOptions>());
    const source = file === "-" ? process.stdin : createReadStream(file);
    const ingested = await ingestNar(source, opened.store);
    printImported(file, ingested.node, ingested);
  });
}
