import { CastoreError, parseBlobServiceUrl, parseDirectoryServiceUrl } from "@castore/castore";
import { parsePathInfoServiceUrl } from "@castore/nar-bridge";
import { Command, InvalidArgumentError, Option } from "commander";
import type { StoreOptions } from "./local-store.ts";

/** What every command that opens the store understands. */
export interface StoreCommandOptions extends StoreOptions {
  readonly json?: boolean;
}

/** A command with the options of StoreCommandOptions, for a local store. */
export function storeCommand(name: string, description: string): Command {
  return commandWith(name, description, localStoreOption());
}

/** The same for one that also takes the URL of services elsewhere. */
export function serviceCommand(name: string, description: string): Command {
  return commandWith(name, description, storeOption());
}

/** --store of a command that needs a local store, by $CASTORE_STORE unless given. */
export function localStoreOption(): Option {
  return new Option("--store <dir>", "local store (in your cache directory)")
    .env("CASTORE_STORE")
    .argParser(parseStoreDirectory);
}

/** --store of a command that takes a service URL, too. */
export function storeOption(): Option {
  const what = "local store (in your cache directory), or a service URL, such as grpc+unix:/PATH";
  return new Option("--store <dir|url>", what).env("CASTORE_STORE").argParser(parseStore);
}

/** Whether a store's name is a service URL (docs/grpc.md), and not a local store's directory. */
export function isStoreUrl(text: string): boolean {
  return /^[a-z][a-z0-9+.-]*:/.test(text);
}

/** A service URL that is one for blobs, directories and path infos. */
function parseStoreUrl(text: string): string {
  try {
    parseBlobServiceUrl(text);
    parseDirectoryServiceUrl(text);
    if (parsePathInfoServiceUrl(text).type !== "binary-cache") return text;
  } catch (error) {
    if (!(error instanceof CastoreError)) throw error;
    throw new InvalidArgumentError(error.message);
  }
  throw new InvalidArgumentError("a binary cache is named with --upstream");
}

/** Collects the service URLs of an option that may be given several times. */
export function collectStoreUrls(
  text: string,
  previous: readonly string[] | undefined,
): readonly string[] {
  return [...(previous ?? []), parseStoreUrl(text)];
}

function commandWith(name: string, description: string, store: Option): Command {
  return new Command(name)
    .description(description)
    .addOption(store)
    .option("--json", "machine-readable output");
}

function parseStore(text: string): string | undefined {
  if (text === "") return undefined;
  return isStoreUrl(text) ? parseStoreUrl(text) : text;
}

function parseStoreDirectory(text: string): string | undefined {
  if (!isStoreUrl(text)) return text === "" ? undefined : text;
  throw new InvalidArgumentError("this needs a local store: a directory, not a service URL");
}
