import { createReadStream } from "node:fs";
import { ingestTree } from "@castore/castore";
import { calculateNar, ingestNar } from "@castore/nar-bridge";
import type { Command } from "commander";
import { printImported } from "./print.ts";
import { openStore, type StoreOptions } from "./stack.ts";
import { storeCommand } from "./store-command.ts";

export function importCommand(): Command {
  const command = storeCommand(
    "import",
    "Put files and directories into the local store; prints one JSON line for each.",
  ).argument("<path...>", "files or directories");
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
  const command = storeCommand(
    "import-nar",
    "Put the contents of a NAR (uncompressed) into the local store.",
  ).argument("<file>", 'the NAR; "-" reads stdin');
  return command.action(async (file: string) => {
    await using opened = await openStore(command.opts<StoreOptions>());
    const source = file === "-" ? process.stdin : createReadStream(file);
    const ingested = await ingestNar(source, opened.store);
    printImported(file, ingested.node, ingested);
  });
}
