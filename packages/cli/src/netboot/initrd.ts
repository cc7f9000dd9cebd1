import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { type ByteSource, CastoreError, createZstdEncoder } from "@castore/castore";
import { clientFiles } from "./client-files.ts";
import { type CpioEntry, encodeCpio } from "./cpio-archive.ts";
import { isStaticElf } from "./elf-file.ts";
import { type DriverSet, kernelModules } from "./kernel-modules.ts";
import { runtimeOptions } from "./runtime-options.ts";

/** What is written into an initrd for its init to read; as trusted as the initrd is. */
export interface BootFile {
  /** The store path whose init is run. */
  readonly system: string;
  readonly upstreams: readonly string[];
  readonly publicKeys: readonly string[];
  readonly rootKeys: readonly string[];
  /** Size of the cache in the machine's memory, for the mount option of tmpfs. */
  readonly cacheSize: string;
  /** Whether the kernel is the file system of the store. */
  readonly kernelMount: boolean;
}

export interface InitrdOptions {
  readonly boot: BootFile;
  /** A kernel package's lib/modules/VERSION. */
  readonly modules: string;
  readonly drivers: DriverSet;
  /** A static busybox. */
  readonly busybox: string;
  /** Certificates that the store server trusts beside Node's own. */
  readonly caFile?: string | undefined;
  /** Of zstd. */
  readonly level: number;
}

/** The shell scripts beside this package's sources. */
const SCRIPTS = new URL("../../netboot/", import.meta.url);
/** What becomes the store server's own root. */
const SERVER_ROOT = "srv";

/**
 * An initrd that boots a machine into `boot.system`: busybox and the modules, and below srv/ the
 * store server with all that it needs. Equal inputs give equal bytes.
 */
export async function buildInitrd(options: InitrdOptions): Promise<Buffer> {
  const entries = await initrdEntries(options);
  const pieces: Uint8Array[] = [];
  const archive: ByteSource = (async function* () {
    yield* encodeCpio(entries);
  })();
  for await (const piece of createZstdEncoder({ level: options.level })(archive)) {
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}

async function initrdEntries(options: InitrdOptions): Promise<CpioEntry[]> {
  const { boot, modules, drivers, busybox, caFile } = options;
  const shell = await readInput(busybox, "busybox");
  if (!isStaticElf(shell, busybox)) {
    const hint = "is not linked statically: install busybox-static, or name one by --busybox";
    throw new CastoreError("INVALID", `${busybox}: ${hint}`);
  }
  const served: CpioEntry[] = [
    ...(await clientFiles()),
    file("bin/busybox", shell, "executable"),
    file("etc/castore/serve-store", await script("serve-store")),
    file("etc/castore/runtime-options", Buffer.from((await runtimeOptions()).join("\n"))),
    file("etc/castore/dhcp", await script("dhcp"), "executable"),
    file("etc/castore/keep-network", await script("keep-network")),
  ];
  if (caFile !== undefined)
    served.push(file("etc/castore/ca.pem", await readInput(caFile, "certificates")));
  return [
    file("init", await script("init"), "executable"),
    { path: "bin/busybox", type: "symlink", target: `/${SERVER_ROOT}/bin/busybox` },
    file("etc/castore/boot", Buffer.from(formatBootFile(boot))),
    ...(await kernelModules(modules, drivers)),
    ...served.map((entry) => ({ ...entry, path: `${SERVER_ROOT}/${entry.path}` })),
  ];
}

/** A file that the user named. Rejects INVALID where it cannot be read. */
export async function readInput(path: string, what: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw new CastoreError("INVALID", `${what} ${path}: cannot be read`, { cause });
  }
}

function file(path: string, bytes: Uint8Array, mode?: "executable"): CpioEntry {
  return { path, type: "file", bytes, executable: mode === "executable" };
}

function script(name: string): Promise<Buffer> {
  return readFile(fileURLToPath(new URL(name, SCRIPTS)));
}

/** KEY=VALUE lines, as the init reads them. */
export function formatBootFile(boot: BootFile): string {
  const lines = [
    `system=${boot.system}`,
    ...boot.upstreams.map((url) => `upstream=${url}`),
    ...boot.publicKeys.map((key) => `public-key=${key}`),
    ...boot.rootKeys.map((key) => `root-key=${key}`),
    `cache-size=${boot.cacheSize}`,
    `kernel-mount=${boot.kernelMount ? "yes" : "no"}`,
  ];
  return lines.map((line) => `${line}\n`).join("");
}
