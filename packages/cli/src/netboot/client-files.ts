import { execFile } from "node:child_process";
import { readdir, readFile, realpath } from "node:fs/promises";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { CastoreError } from "@castore/castore";
import type { CpioEntry } from "./cpio-archive.ts";
import { stripElf } from "./elf-file.ts";
import { stripIcuData } from "./icu-data.ts";
import { findPackage, type InstalledPackage, installedNativePackages } from "./native-packages.ts";

const execute = promisify(execFile);

/** Where all packages lie in a machine. */
const CLIENT_DIRECTORY = "castore";
/** This package. */
const CLI = fileURLToPath(new URL("../..", import.meta.url));
/** What `npm run build` made of machine-client.ts: netboot/bundle.js. */
const BUNDLE = ["package.json", "dist/kernel.wasm", "dist/blake3.wasm"];
const MAIN = "dist/machine/machine-client.cjs";
const CODE = /\.(js|cjs|mjs|json|wasm)$/;
const UNUSED = new Set(["node_modules", "test", "tests", "docs", "examples", "benchmark", "bench"]);

/**
 * The runtime that runs this, its libraries, and the client of a machine with the packages that it
 * loads: what lies in the root directory of a machine's store server, as /bin/node and
 * /bin/castore.js. Native code is stripped, and is only what this runtime loads on this platform.
 */
export async function clientFiles(): Promise<CpioEntry[]> {
  const cli = await realpath(CLI);
  const client = join(cli, dirname(MAIN));
  const natives = await installedNativePackages();
  const { directories, links } = await installedPackages(natives, client);
  const root = commonParent([cli, ...directories]);
  const within = (path: string) => join(CLIENT_DIRECTORY, relative(root, path));
  const entries: CpioEntry[] = [];
  const files = BUNDLE.map((path) => join(cli, path));
  for (const directory of [client, ...directories]) {
    files.push(...(await codeFiles(directory)));
  }
  for (const path of files) {
    const bytes = await readFile(path);
    entries.push({ path: within(path), type: "file", bytes, executable: false });
  }
  for (const [link, target] of links) {
    entries.push({ path: within(link), type: "symlink", target: relative(dirname(link), target) });
  }
  entries.push(await program(process.execPath, "bin/node"));
  for (const file of await sharedObjects(natives.map(({ directory }) => directory))) {
    const isAddon = file.startsWith(`${root}${sep}`);
    entries.push(await program(file, isAddon ? within(file) : file.slice(1)));
  }
  const main = within(join(cli, MAIN));
  entries.push({ path: "bin/castore.js", type: "symlink", target: `/${main}` });
  return entries;
}

async function program(file: string, path: string): Promise<CpioEntry> {
  const bytes = stripElf(await readFile(file), file);
  stripIcuData(bytes);
  return { path, type: "file", bytes, executable: true };
}

/** Loads what a machine loads of native code, and asks the runtime what the loader found for it. */
const PROBE = `
  import { createRequire } from "node:module";
  import { pathToFileURL } from "node:url";
  for (const directory of process.argv.slice(1)) {
    const file = createRequire(directory + "/").resolve(directory);
    await import(pathToFileURL(file).href);
  }
  const { sharedObjects } = process.report.getReport();
  console.log(JSON.stringify(sharedObjects));
`;

/** Absolute paths of the libraries and addons. */
async function sharedObjects(packages: readonly string[]): Promise<string[]> {
  const args = ["--input-type=module", "-e", PROBE, ...packages];
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

/** `natives` and all that they need, found as Node finds them; the client finds them beside it. */
async function installedPackages(
  natives: readonly InstalledPackage[],
  client: string,
): Promise<InstalledPackages> {
  const directories = new Set(natives.map(({ directory }) => directory));
  const links = new Map(
    natives.map(({ name, directory }) => [join(client, "node_modules", name), directory]),
  );
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
