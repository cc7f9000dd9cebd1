import { readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { type ByteSource, CastoreError } from "@castore/castore";
import { type Compression, decompress } from "@castore/nar-bridge";
import type { CpioEntry } from "./cpio-archive.ts";

/** Which network cards an initrd knows: those of virtual machines, or all of Ethernet. */
export const DRIVER_SETS = ["virtio", "ethernet"] as const;
export type DriverSet = (typeof DRIVER_SETS)[number];

/** What every machine needs, as a module or built in. */
const NEEDED = ["fuse", "overlay", "erofs", "virtio_net"];
/** What those ask for by other names, and some kernels have built in. */
const WELCOME = [
  ...["virtio_pci", "crc32c_generic", "crc32c_intel", "libcrc32c", "af_packet"],
  // For a disk that keeps contents.
  ...["ext4", "virtio_blk", "virtio_scsi", "sd_mod", "ahci", "nvme"],
];
const ETHERNET = /^kernel\/drivers\/net\/(ethernet|phy|mdio|hyperv|vmxnet3|virtio_net)/;
/** Most bytes of one module. */
const MODULE_BYTES_MAX = 64 << 20;

const COMPRESSIONS: Readonly<Record<string, Compression>> = {
  ".ko": "none",
  ".ko.xz": "xz",
  ".ko.zst": "zstd",
  ".ko.gz": "gzip",
};

interface KernelModule {
  readonly name: string;
  /** Below the modules' directory, without the ending of a compression. */
  readonly path: string;
  readonly bytes: Buffer;
  readonly needs: readonly string[];
  readonly aliases: readonly string[];
}

/**
 * The modules of a driver set with all that they need, and the two indexes by which modprobe finds
 * them. `directory` is a lib/modules/VERSION as the kernel's package has it, before depmod.
 * Rejects INVALID where the kernel lacks what a machine needs.
 */
export async function kernelModules(directory: string, drivers: DriverSet): Promise<CpioEntry[]> {
  const files = await moduleFiles(directory);
  const builtIn = await builtInModules(directory);
  const wanted = new Set([...NEEDED, ...WELCOME.filter((name) => files.has(name))]);
  if (drivers === "ethernet") {
    for (const [name, path] of files) if (ETHERNET.test(path)) wanted.add(name);
  }
  const modules = new Map<string, KernelModule>();
  for (const name of wanted) {
    const path = files.get(name);
    if (path !== undefined) {
      const module = await readModule(directory, name, path);
      modules.set(name, module);
      for (const need of module.needs) wanted.add(need);
    } else if (!builtIn.has(name)) {
      throw new CastoreError("INVALID", `kernel modules in ${directory}: ${name} is missing`);
    }
  }
  return entriesOf(`lib/modules/${basename(directory)}`, modules);
}

/** Path by name, below `directory`. */
async function moduleFiles(directory: string): Promise<ReadonlyMap<string, string>> {
  const files = new Map<string, string>();
  try {
    for (const path of (await readdir(join(directory, "kernel"), { recursive: true })).sort()) {
      if (endingOf(path) !== undefined) files.set(nameOf(path), join("kernel", path));
    }
  } catch (cause) {
    const hint = "want the lib/modules/VERSION of a kernel's package";
    throw new CastoreError("INVALID", `kernel modules in ${directory}: ${hint}`, { cause });
  }
  return files;
}

async function builtInModules(directory: string): Promise<ReadonlySet<string>> {
  const list = await readFile(join(directory, "modules.builtin"), "utf8");
  return new Set(list.split("\n").map(nameOf));
}

function endingOf(path: string): string | undefined {
  return Object.keys(COMPRESSIONS).find((ending) => path.endsWith(ending));
}

/** A file may be named with "-" what the kernel calls with "_". */
function nameOf(path: string): string {
  return basename(path)
    .replace(/\.ko(\.\w+)?$/, "")
    .replaceAll("-", "_");
}

async function readModule(directory: string, name: string, path: string): Promise<KernelModule> {
  const ending = endingOf(path) ?? "";
  const file = await readFile(join(directory, path));
  const pieces: Uint8Array[] = [];
  const source: ByteSource = (async function* () {
    yield file;
  })();
  const compression = COMPRESSIONS[ending] ?? "none";
  for await (const piece of decompress(compression, source, { sizeMax: MODULE_BYTES_MAX })) {
    pieces.push(Buffer.from(piece));
  }
  const bytes = Buffer.concat(pieces);
  const info = (field: string) => {
    const pattern = new RegExp(`(?<=\\0)${field}=([^\\0]*)(?=\\0)`, "g");
    return [...bytes.toString("latin1").matchAll(pattern)].map(([, value = ""]) => value);
  };
  const needs = info("depends").flatMap((list) => list.split(",").filter((need) => need !== ""));
  return {
    name,
    path: `${path.slice(0, path.length - ending.length)}.ko`,
    bytes,
    needs: needs.map(nameOf),
    aliases: info("alias"),
  };
}

function entriesOf(at: string, modules: ReadonlyMap<string, KernelModule>): CpioEntry[] {
  const entries: CpioEntry[] = [];
  const text = (name: string, lines: readonly string[]) => {
    const bytes = Buffer.from(lines.map((line) => `${line}\n`).join(""));
    entries.push({ path: `${at}/${name}`, type: "file", bytes, executable: false });
  };
  const sorted = [...modules.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
  for (const { path, bytes } of sorted) {
    entries.push({ path: `${at}/${path}`, type: "file", bytes, executable: false });
  }
  // modprobe loads them from the last to the first: what a module needs stands behind it.
  const needsOf = (module: KernelModule): string[] => {
    const paths = new Set<string>();
    const visit = ({ needs }: KernelModule) => {
      for (const need of needs) {
        const other = modules.get(need);
        if (other === undefined || paths.has(other.path)) continue;
        visit(other);
        paths.add(other.path);
      }
    };
    visit(module);
    return [...paths].reverse();
  };
  text(
    "modules.dep",
    sorted.map((module) => [`${module.path}:`, ...needsOf(module)].join(" ")),
  );
  text(
    "modules.alias",
    sorted.flatMap(({ name, aliases }) => aliases.map((alias) => `alias ${alias} ${name}`)),
  );
  return entries;
}
