import {
  type ExportCompression,
  exportClosure,
  NIX_STORE_DIR,
  parseAbsoluteStorePath,
  RecipeStore,
  RootSigningKey,
  storePathHash,
} from "@castore/nar-bridge";
import { InvalidArgumentError, Option } from "commander";
import { readKeys } from "./key-files.ts";
import { openStore } from "./local-store.ts";
import { printJson } from "./print.ts";
import { createByteProgress } from "./progress.ts";
import { collect } from "./settings.ts";
import { type StoreCommandOptions, storeCommand } from "./store-command.ts";

/** For what is made once and fetched often. */
const ZSTD_LEVEL = 19;
const LEVELS_MAX = { xz: 9, zstd: 22 } as const;

interface ExportCommandOptions extends StoreCommandOptions {
  readonly to: string;
  readonly compression: ExportCompression;
  readonly rootSigningKey?: readonly string[];
  readonly prune?: boolean;
}

export function exportCommand() {
  const command = storeCommand(
    "export",
    "Write closures into a directory that any web server makes a cache, castore/1 included.",
  )
    .requiredOption("--to <dir>", "directory to write to, made if it is not there")
    .addOption(
      new Option("--compression <name>", "of NARs: xz or zstd, also zstd:LEVEL")
        .argParser(parseExportCompression)
        .default({ name: "zstd", level: ZSTD_LEVEL }, `zstd:${ZSTD_LEVEL}`),
    )
    .option("--root-signing-key <file>", "sign root nodes with this key, repeatable", collect)
    .option("--prune", "remove from the directory what these closures do not need")
    .argument("<storepath...>", "absolute store paths")
    .addHelpText("after", EXPORT_HELP);
  return command.action(async (paths: readonly string[]) => {
    await runExport(paths, command.opts<ExportCommandOptions>());
  });
}

const EXPORT_HELP = `
Run it again to add what is missing; kill it at any time. What it writes serves nix as it is:

  substituters = https://HOST/PATH/

docs/operations.md has the nginx configuration and how to copy it to a server.`;

async function runExport(paths: readonly string[], options: ExportCommandOptions): Promise<void> {
  const { compression } = options;
  const roots = paths.map((path) => storePathHash(parseAbsoluteStorePath(path)));
  const keys = await readKeys(options.rootSigningKey);
  const rootSigningKeys = keys.map((text) => RootSigningKey.parse(text));
  await using opened = await openStore(options);
  const abort = new AbortController();
  process.once("SIGINT", () => abort.abort(new Error("interrupted")));
  using progress = createByteProgress();
  const source = { ...opened, recipes: new RecipeStore(opened.store) };
  const report = await exportClosure(source, roots, {
    directory: options.to,
    storeDir: NIX_STORE_DIR,
    compression,
    zstdLevel: compression.name === "zstd" ? (compression.level ?? ZSTD_LEVEL) : ZSTD_LEVEL,
    rootSigningKeys,
    prune: options.prune === true,
    signal: abort.signal,
    onPath({ pathInfo, nar, bytes, bytesTotal }) {
      progress.update("exporting", { bytes, bytesTotal });
      if (options.json !== true) return;
      const { storePath, narHash, narSize } = pathInfo;
      printJson({ path: `/nix/store/${storePath}`, narHash, narSize, ...nar });
    },
  });
  if (options.json === true) printJson(report);
  else process.stdout.write(`${report.paths} paths exported, ${report.pruned} files removed\n`);
}

/** Parses xz, zstd, xz:LEVEL or zstd:LEVEL. */
function parseExportCompression(text: string): ExportCompression {
  const [, name, digits] = /^(xz|zstd)(?::(\d{1,2}))?$/.exec(text) ?? [];
  if (name !== "xz" && name !== "zstd") {
    throw new InvalidArgumentError("want xz, zstd or zstd:LEVEL");
  }
  const level = digits === undefined ? undefined : Number(digits);
  const least = name === "zstd" ? 1 : 0;
  if (level !== undefined && (level < least || level > LEVELS_MAX[name])) {
    throw new InvalidArgumentError(`want a level from ${least} to ${LEVELS_MAX[name]}`);
  }
  return { name, level: level ?? (name === "zstd" ? ZSTD_LEVEL : undefined) };
}
