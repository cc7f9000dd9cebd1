import { Command } from "commander";
import type { StoreOptions } from "./stack.ts";

/** What every command that opens the store understands. */
export interface StoreCommandOptions extends StoreOptions {
  readonly json?: boolean;
}

/** A command with the options of StoreCommandOptions. */
export function storeCommand(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .option("--store <dir>", "local store ($CASTORE_STORE or your cache directory)")
    .option("--json", "machine-readable output");
}
