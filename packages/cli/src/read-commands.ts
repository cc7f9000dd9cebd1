import {
  byteStringText,
  CastoreError,
  type Digest,
  type Directory,
  type DirectoryService,
  encodedDirectoryOf,
  type Node,
  PiecePool,
  parseEntryText,
  pathComponentOfText,
  type StoredDirectory,
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
import { openServices, type Services } from "./remote-store.ts";
import { openStandardOutput } from "./standard-output.ts";
import { type StoreCommandOptions, serviceCommand } from "./store-command.ts";

export function renderCommand(): Command {
  const command = serviceCommand("render", "Write the NAR of a root to stdout.");
  return command.argument("<root>", "an ENTRY or a store path").action(async (root: string) => {
    await using opened = await openServices(command.opts<StoreCommandOptions>());
    const { node } = await findNode(opened, root);
    const pool = new PiecePool();
    await using output = openStandardOutput(pool.give);
    for await (const piece of renderNar(node, opened.services, { pool })) await output.write(piece);
  });
}

export function catCommand(): Command {
  const command = serviceCommand("cat", "Write a file's contents to stdout.");
  return command
    .argument("<file>", "an ENTRY or a store path, and a path below it")
    .action(async (file: string) => {
      await using opened = await openServices(command.opts<StoreCommandOptions>());
      const { node } = await findNode(opened, file);
      if (node.type !== "file") throw new CastoreError("INVALID", `${file}: is a ${node.type}`);
      const reader = await opened.services.blobs.open(node.digest);
      if (reader === undefined) {
        throw new CastoreError("INCOMPLETE", `${file}: blob ${node.digest} is missing`);
      }
      const pool = new PiecePool();
      await using output = openStandardOutput(pool.give);
      for await (const piece of reader.stream(0, undefined, { pool })) await output.write(piece);
      await reader.close();
    });
}

export function lsCommand(): Command {
  const command = serviceCommand("ls", "List a directory, or show what one file is.");
  return command
    .argument("<path>", "an ENTRY or a store path, and a path below it")
    .action(async (path: string) => {
      const options = command.opts<StoreCommandOptions>();
      await using opened = await openServices(options);
      const entries = await entriesOf(await findNode(opened, path), path);
      for (const { name, node: child } of entries) {
        if (options.json === true) printJson({ name, ...nodeJson(child) });
        else process.stdout.write(`${describe(child)} ${name}${linkTarget(child)}\n`);
      }
    });
}

export function pathInfoCommand(): Command {
  const command = serviceCommand("path-info", "Show what is known of store paths.");
  return command
    .argument("<storepath...>", "absolute store paths")
    .action(async (paths: readonly string[]) => {
      const options = command.opts<StoreCommandOptions>();
      await using opened = await openServices(options);
      for (const path of paths) {
        const storePath = parseAbsoluteStorePath(path);
        const pathInfo = await opened.pathInfos.get(storePathHash(storePath));
        if (pathInfo === undefined) {
          throw new CastoreError("INCOMPLETE", `${path}: is not in the store`);
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

/** What a command's argument names. */
interface Found {
  readonly node: Node;
  /** The directories at and below the root that it began at. */
  readonly directories: StoredDirectory;
}

/** The node that ENTRY[/SUBPATH] or STOREPATH[/SUBPATH] names. */
async function findNode(opened: Services, text: string): Promise<Found> {
  const [root, names] = await findRoot(opened, text);
  const directories = directoriesBelow(root, opened.services.directories);
  let node = root;
  for (const name of names) {
    if (name === "" || name === ".") continue;
    const directory = node.type === "directory" ? await directories(node.digest) : undefined;
    const child = directory?.get(pathComponentOfText(name));
    if (child === undefined) throw new CastoreError("INCOMPLETE", `${text}: no "${name}" there`);
    node = child;
  }
  return { node, directories };
}

async function findRoot(
  { pathInfos }: Services,
  text: string,
): Promise<[root: Node, names: readonly string[]]> {
  if (!text.startsWith("/")) {
    const [entry = "", ...names] = text.split("/");
    return [parseEntryText(entry), names];
  }
  const { storePath, subPath } = parseStoreLocation(text);
  const pathInfo = await pathInfos.get(storePathHash(storePath));
  if (pathInfo === undefined) {
    throw new CastoreError("INCOMPLETE", `${storePath}: is not in the store`);
  }
  return [pathInfo.node, subPath.split("/")];
}

/** Each directory alone where the service has it so; an object store has whole closures only. */
function directoriesBelow(root: Node, service: DirectoryService): StoredDirectory {
  const closure = new Map<Digest, Directory>();
  return async (digest) => {
    const alone = closure.get(digest) ?? (await service.get(digest));
    if (alone !== undefined || root.type !== "directory") return alone;
    for await (const directory of service.getClosure(root.digest)) {
      closure.set(encodedDirectoryOf(directory).digest, directory);
    }
    return closure.get(digest);
  };
}

async function entriesOf(
  { node, directories }: Found,
  path: string,
): Promise<readonly { readonly name: string; readonly node: Node }[]> {
  if (node.type !== "directory") return [{ name: path, node }];
  const directory = await directories(node.digest);
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
