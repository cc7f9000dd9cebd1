import { once } from "node:events";
import {
  byteStringText,
  CastoreError,
  type Node,
  parseEntryText,
  pathComponentOfText,
} from "@castore/castore";
import {
  formatNarInfo,
  narInfoOf,
  parseAbsoluteStorePath,
  parseStoreLocation,
  renderNar,
  storePathHash,
} from "@castore/nar-bridge";
import type { Command } from "commander";
import { nodeJson, printJson } from "./print.ts";
import { type OpenStore, openStore } from "./stack.ts";
import { type StoreCommandOptions, storeCommand } from "./store-command.ts";

export function renderCommand(): Command {
  const command = storeCommand("render", "Write the NAR of a root to stdout.");
  return command.argument("<root>", "an ENTRY or a store path").action(async (root: string) => {
    await using opened = await openStore(command.opts<StoreCommandOptions>());
    const node = await findNode(opened, root);
    for await (const piece of renderNar(node, opened.store)) await writeOut(piece);
  });
}

export function catCommand(): Command {
  const command = storeCommand("cat", "Write a file's contents to stdout.");
  return command
    .argument("<file>", "an ENTRY or a store path, and a path below it")
    .action(async (file: string) => {
      await using opened = await openStore(command.opts<StoreCommandOptions>());
      const node = await findNode(opened, file);
      if (node.type !== "file") throw new CastoreError("INVALID", `${file}: is a ${node.type}`);
      const reader = await opened.store.blobs.open(node.digest);
      if (reader === undefined) {
        throw new CastoreError("INCOMPLETE", `${file}: blob ${node.digest} is missing`);
      }
      for await (const piece of reader.stream()) await writeOut(piece);
      await reader.close();
    });
}

export function lsCommand(): Command {
  const command = storeCommand("ls", "List a directory, or show what one file is.");
  return command
    .argument("<path>", "an ENTRY or a store path, and a path below it")
    .action(async (path: string) => {
      const options = command.opts<StoreCommandOptions>();
      await using opened = await openStore(options);
      const node = await findNode(opened, path);
      const entries = await entriesOf(opened, node, path);
      for (const { name, node: child } of entries) {
        if (options.json === true) printJson({ name, ...nodeJson(child) });
        else process.stdout.write(`${describe(child)} ${name}${linkTarget(child)}\n`);
      }
    });
}

export function pathInfoCommand(): Command {
  const command = storeCommand("path-info", "Show what is known of store paths.");
  return command
    .argument("<storepath...>", "absolute store paths")
    .action(async (paths: readonly string[]) => {
      const options = command.opts<StoreCommandOptions>();
      await using opened = await openStore(options);
      for (const path of paths) {
        const storePath = parseAbsoluteStorePath(path);
        const pathInfo = await opened.pathInfos.get(storePathHash(storePath));
        if (pathInfo === undefined) {
          throw new CastoreError("INCOMPLETE", `${path}: is not in the local store`);
        }
        const { node, narHash, narSize, references, deriver, signatures, ca } = pathInfo;
        if (options.json === true) {
          const json = { path, node: nodeJson(node), narHash, narSize, references };
          printJson({ ...json, deriver, signatures, ca });
        } else {
          process.stdout.write(formatNarInfo(narInfoOf(pathInfo, "-")));
        }
      }
    });
}

/** The node that ENTRY[/SUBPATH] or STOREPATH[/SUBPATH] names. */
async function findNode(opened: OpenStore, text: string): Promise<Node> {
  if (!text.startsWith("/")) {
    const [entry = "", ...names] = text.split("/");
    return await descend(opened, parseEntryText(entry), names, text);
  }
  const { storePath, subPath } = parseStoreLocation(text);
  const pathInfo = await opened.pathInfos.get(storePathHash(storePath));
  if (pathInfo === undefined) {
    throw new CastoreError("INCOMPLETE", `${storePath}: is not in the local store`);
  }
  return await descend(opened, pathInfo.node, subPath.split("/"), text);
}

async function descend(
  { store }: OpenStore,
  root: Node,
  names: readonly string[],
  text: string,
): Promise<Node> {
  let node = root;
  for (const name of names) {
    if (name === "" || name === ".") continue;
    const directory =
      node.type === "directory" ? await store.directories.get(node.digest) : undefined;
    const child = directory?.get(pathComponentOfText(name));
    if (child === undefined) throw new CastoreError("INCOMPLETE", `${text}: no ${name} there`);
    node = child;
  }
  return node;
}

async function entriesOf(
  { store }: OpenStore,
  node: Node,
  path: string,
): Promise<readonly { readonly name: string; readonly node: Node }[]> {
  if (node.type !== "directory") return [{ name: path, node }];
  const directory = await store.directories.get(node.digest);
  if (directory === undefined) {
    throw new CastoreError("INCOMPLETE", `${path}: directory ${node.digest} is missing`);
  }
  return directory.entries.map((entry) => ({ name: byteStringText(entry.name), node: entry.node }));
}

function describe(node: Node): string {
  if (node.type === "symlink") return "lrwxrwxrwx            -";
  const size = String(node.type === "file" ? node.size : "-").padStart(12);
  if (node.type === "directory") return `dr-xr-xr-x ${size}`;
  return `${node.executable ? "-r-xr-xr-x" : "-r--r--r--"} ${size}`;
}

function linkTarget(node: Node): string {
  return node.type === "symlink" ? ` -> ${byteStringText(node.target)}` : "";
}

async function writeOut(piece: Uint8Array): Promise<void> {
  if (!process.stdout.write(piece)) await once(process.stdout, "drain");
}
