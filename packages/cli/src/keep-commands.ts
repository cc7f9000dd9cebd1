import { readlink, rm, symlink } from "node:fs/promises";
import { resolve } from "node:path";
import { CastoreError, type Node, type Pin, parseEntryText } from "@castore/castore";
import {
  formatStorePath,
  NIX_STORE_DIR,
  parseStoreLocation,
  storePathHash,
} from "@castore/nar-bridge";
import { Command } from "commander";
import { type OpenStore, openStore } from "./local-store.ts";
import { formatBytes, printJson } from "./print.ts";
import { parseDuration, parseSize } from "./settings.ts";
import { type StoreCommandOptions, storeCommand } from "./store-command.ts";

export function statsCommand(): Command {
  const command = storeCommand("stats", "Show what the local store holds.");
  return command.action(async () => {
    const options = command.opts<StoreCommandOptions>();
    await using opened = await openStore(options);
    const { store, pathInfos } = opened;
    let paths = 0;
    let narBytes = 0;
    for await (const { narSize } of pathInfos.list()) {
      paths++;
      narBytes += narSize;
    }
    const { blobs, directories, bytes } = store.stats();
    if (options.json === true) {
      printJson({ store: store.path, paths, narBytes, blobs, directories, bytes });
      return;
    }
    process.stdout.write(
      `store        ${store.path}\n` +
        `store paths  ${paths}, as NARs ${formatBytes(narBytes)}\n` +
        `blobs        ${blobs}\n` +
        `directories  ${directories}\n` +
        `size         ${formatBytes(bytes)}\n`,
    );
  });
}

interface GcOptions extends StoreCommandOptions {
  readonly maxSize?: number;
  readonly dryRun?: boolean;
}

export function gcCommand(): Command {
  const command = storeCommand("gc", "Delete what no store path, root or lease needs.")
    .option("--max-size <size>", "also evict least recently used paths down to this", parseSize)
    .option("--dry-run", "only say what would go");
  return command.action(async () => {
    const { maxSize: sizeMax, dryRun, json, ...options } = command.opts<GcOptions>();
    await using opened = await openStore(options);
    const report = await opened.store.collectGarbage({ sizeMax, dryRun });
    if (json === true) {
      printJson(report);
      return;
    }
    const { rootsEvicted, blobsDeleted, directoriesDeleted, bytesFreed } = report;
    const verb = dryRun === true ? "would delete" : "deleted";
    const what = `${rootsEvicted} roots, ${blobsDeleted} blobs, ${directoriesDeleted} directories`;
    process.stdout.write(`${verb} ${what}: ${formatBytes(bytesFreed)}\n`);
  });
}

export function rootCommand(): Command {
  return new Command("root")
    .description("Keep store paths and entries from being evicted and collected.")
    .addCommand(rootAddCommand())
    .addCommand(rootRemoveCommand())
    .addCommand(rootListCommand());
}

interface RootAddOptions extends StoreCommandOptions {
  readonly name?: string;
  readonly ttl?: number;
  readonly link?: string;
}

function rootAddCommand(): Command {
  const command = storeCommand("add", "Keep these, with all they refer to.")
    .option("--name <name>", "what to call the root (the first path's name)")
    .option("--ttl <time>", "keep for so long only: 90s, 30m, 12h, 7d", parseDuration)
    .option("--link <path>", "make a symlink, and keep for as long as it is there, as Nix does")
    .argument("<root...>", "store paths and ENTRYs");
  return command.action(async (roots: readonly string[]) => {
    const options = command.opts<RootAddOptions>();
    await using opened = await openStore(options);
    const pin = await pinOf(opened, roots, options);
    if (pin.link !== undefined) await makeLink(pin.link);
    await opened.store.pins.put(pin);
    if (options.json === true) printJson(pin);
    else process.stdout.write(`${pin.name}\n`);
  });
}

async function pinOf(
  { pathInfos, store }: OpenStore,
  roots: readonly string[],
  options: RootAddOptions,
): Promise<Pin> {
  const keys: string[] = [];
  const nodes: Node[] = [];
  const paths: string[] = [];
  for (const root of roots) {
    if (!root.startsWith("/")) {
      nodes.push(parseEntryText(root));
      continue;
    }
    const { storePath } = parseStoreLocation(root);
    const storeHash = storePathHash(storePath);
    if ((await pathInfos.get(storeHash)) === undefined) {
      throw new CastoreError("INCOMPLETE", `${root}: is not in the store ${store.path}`);
    }
    keys.push(storeHash);
    paths.push(formatStorePath(storePath, NIX_STORE_DIR));
  }
  const [target] = paths;
  const { link: linkPath, ttl: ttlMs } = options;
  if (linkPath !== undefined && target === undefined) {
    throw new CastoreError("INVALID", "--link wants a store path to point to");
  }
  const link =
    linkPath === undefined || target === undefined
      ? undefined
      : { path: resolve(linkPath), target };
  const name = options.name ?? link?.path ?? roots[0]?.replace(/^.*\//, "").slice(0, 200) ?? "";
  return { name, keys, nodes, ttlMs, link };
}

async function makeLink({ path, target }: { path: string; target: string }): Promise<void> {
  const present = await readlink(path).catch(() => undefined);
  if (present === target) return;
  if (present !== undefined) await rm(path);
  try {
    await symlink(target, path);
  } catch (cause) {
    throw new CastoreError("INVALID", `${path}: cannot be made a link: ${String(cause)}`, {
      cause,
    });
  }
}

function rootRemoveCommand(): Command {
  const command = storeCommand("rm", "Keep these roots no longer.").argument("<name...>");
  return command.action(async (names: readonly string[]) => {
    await using opened = await openStore(command.opts<StoreCommandOptions>());
    for (const name of names) {
      if (await opened.store.pins.delete(name)) continue;
      throw new CastoreError("INCOMPLETE", `${name}: no root of this name`);
    }
  });
}

function rootListCommand(): Command {
  const command = storeCommand("list", "Show the roots that hold.");
  return command.action(async () => {
    const options = command.opts<StoreCommandOptions>();
    await using opened = await openStore(options);
    for await (const pin of opened.store.pins.list()) {
      if (options.json === true) printJson(pin);
      else process.stdout.write(`${pin.name}  ${pin.keys.length + pin.nodes.length} kept\n`);
    }
  });
}
