import { createReadStream } from "node:fs";
import { ingestTree } from "@castore/castore";
import { createNarHasher, ingestNar } from "@castore/nar-bridge";
import type { Command } from "commander";
import { printImported } from "./print.ts";
import { openServices } from "./remote-store.ts";
import type { StoreOptions } from "./stack.ts";
import { serviceCommand } from "./store-command.ts";

export function importCommand(): Command {
  const command = serviceCommand(
    "import",
    "Put files and directories into a store; prints one JSON line for each.",
  ).argument("<path...>", "files or directories");
  return command.action(async (paths: readonly string[]) => {
    await using opened = await openServices(command.opts<StoreOptions>());
    const { services } = opened;
    for (const path of paths) {
      const visitor = createNarHasher();
      const node = await ingestTree(path, { ...services, visitor });
      printImported(path, node, visitor.finish());
    }
  });
}

export function importNarCommand(): Command {
  const command = serviceCommand(
    "import-nar",
    "Put the contents of a NAR (uncompressed) into a store.",
  ).argument("<file>", 'the NAR; "-" reads stdin');
  return command.action(async (file: string) => {
    await using opened = await openServices(command.opts<StoreOptions>());
    const source = file === "-" ? process.stdin : createReadStream(file);
    const ingested = await ingestNar(source, opened.services);
    printImported(file, ingested.node, ingested);
  });
}
