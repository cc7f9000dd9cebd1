import { execFile } from "node:child_process";
import { readdir, readFile, realpath } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { CastoreError } from "@castore/castore";
import type { CpioEntry } from "./cpio-archive.ts";
import { stripElf } from "./elf-file.ts";

const execute = promisify(execFile);

/** Where all packages lie in a machine. */
const CLIENT_DIRECTORY = "castore";
/** This package. */
const CLI = fileURLToPath(new URL("../..", import.meta.url));
const CODE = /\.(js|cjs|mjs|json|wasm)$/;
const UNUSED = new Set(["node_modules", "test", "tests", "docs", "examples", "benchmark", "bench"]);

/**
 * The runtime that runs this, its libraries, and this command with all packages that it may import:
 * what lies in the root directory of a machine's store server, as /bin/node and /bin/castore.js.
 * Native code is stripped, and is only what this runtime loads on this platform.
 */
export async function clientFiles(): Promise<CpioEntry[]> {
  const { directories, links } = await installedPackages();
  const root = commonParent(directories);
  const within = (path: string) => join(CLIENT_DIRECTORY, relative(root, path));
  const entries: CpioEntry[] = [];
  for (const directory of directories) {
    for (const path of await codeFiles(directory)) {
      const bytes = await readFile(path);
      entries.push({ path: within(path), type: "file", bytes, executable: false });
    }
  }
  for (const [link, target] of links) {
    entries.push({ path: within(link), type: "symlink", target: relative(dirname(link), target) });
  }
  entries.push(await program(process.execPath, "bin/node"));
  for (const file of await sharedObjects()) {
    const isAddon = file.startsWith(`${root}${sep}`);
    entries.push(await program(file, isAddon ? within(file) : file.slice(1)));
  }
  const main = within(join(await realpath(CLI), "bin/castore.js"));
  entries.push({ path: "bin/castore.js", type: "symlink", target: `/${main}` });
  return entries;
}

async function program(file: string, path: string): Promise<CpioEntry> {
  return { path, type: "file", bytes: stripElf(await readFile(file), file), executable: true };
}

/** Loads all that the mount loads, and asks the runtime what the loader found for it. */
const PROBE = `
  await Promise.all(process.argv.slice(1).map((url) => import(url)));
  const { sharedObjects } = process.report.getReport();
  console.log(JSON.stringify(sharedObjects));
`;

/** Absolute paths of the libraries and addons. */
async function sharedObjects(): Promise<string[]> {
  const names = ["@castore/castore", "@castore/nar-bridge", "@castore/fuse"];
  const urls = names.map((name) => import.meta.resolve(name));
  // Loaded late, and by one package alone.
  const koffi = createRequire(import.meta.resolve("@castore/fuse")).resolve("koffi");
  const args = ["--input-type=module", "-e", PROBE, ...urls, pathToFileURL(koffi).href];
  const { stdout } = await execute(process.execPath, args, { cwd: CLI });
  const found: unknown = JSON.parse(stdout);
  if (!Array.isArray(found)) throw new CastoreError("UNSUPPORTED", "node: tells no libraries");
  return found.filter((path): path is string => typeof path === "string" && path.startsWith("/"));
}

interface InstalledPackages {
  readonly directories: readonly string[];
  /** From where a package was looked for to where it lies. */
  readonly links: ReadonlyMap<string, string>;
}

/** This package and all that it needs, found as Node finds them. */
async function installedPackages(): Promise<InstalledPackages> {
  const directories = new Set([await realpath(CLI)]);
  const links = new Map<string, string>();
  for (const directory of directories) {
    const manifest = JSON.parse(await readFile(join(directory, "package.json"), "utf8"));
    const { dependencies = {}, optionalDependencies = {} } = manifest;
    for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) {
      const found = await findPackage(directory, name);
      if (found === undefined && name in optionalDependencies) continue;
      if (found === undefined) {
        throw new CastoreError("INCOMPLETE", `${directory}: ${name} is not installed`);
      }
      const { link, target } = found;
      directories.add(target);
      if (link !== target) links.set(link, target);
    }
  }
  return { directories: [...directories].sort(), links };
}

async function findPackage(
  from: string,
  name: string,
): Promise<{ readonly link: string; readonly target: string } | undefined> {
  for (let directory = from; ; directory = dirname(directory)) {
    const link = join(directory, "node_modules", name);
    const target = await realpath(link).catch(() => undefined);
    if (target !== undefined) return { link, target };
    if (directory === dirname(directory)) return undefined;
  }
}

async function codeFiles(directory: string): Promise<string[]> {
  const files: string[] = [];
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) {
      if (!UNUSED.has(entry.name)) files.push(...(await codeFiles(path)));
    } else if (entry.isFile() && CODE.test(entry.name)) files.push(path);
  }
  return files;
}

function commonParent(directories: readonly string[]): string {
  const isParent = (path: string) => directories.every((it) => it.startsWith(`${path}${sep}`));
  let parent = dirname(directories[0] ?? CLI);
  while (!isParent(parent) && parent !== dirname(parent)) parent = dirname(parent);
  return parent;
}
