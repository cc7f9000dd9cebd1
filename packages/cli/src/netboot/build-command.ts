import { createHash } from "node:crypto";
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { CastoreError } from "@castore/castore";
import { parseAbsoluteStorePath, TrustedKeys, TrustedRootKeys } from "@castore/nar-bridge";
import { Command, InvalidArgumentError, Option } from "commander";
import { collect } from "../settings.ts";
import { bootDisk } from "./boot-disk.ts";
import { buildInitrd, readInput } from "./initrd.ts";
import { formatIpxeScript, KERNEL_WORDS } from "./ipxe-script.ts";
import { DRIVER_SETS, type DriverSet } from "./kernel-modules.ts";
import { startFileOf, unifiedKernelImage } from "./unified-kernel-image.ts";

interface BuildOptions {
  readonly system: string;
  readonly kernel?: string;
  readonly modules?: string;
  readonly drivers: DriverSet;
  readonly busybox: string;
  readonly upstream?: readonly string[];
  readonly trustedPublicKey?: readonly string[];
  readonly trustedRootKey?: readonly string[];
  readonly caFile?: string;
  readonly cacheSize: string;
  readonly kernelMount: boolean;
  readonly commandLine: string;
  readonly compression: number;
  readonly image?: boolean;
  readonly efiStub: string;
  readonly out: string;
}

const EFI_STUB = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

export function netbootBuildCommand(): Command {
  const command = new Command("build")
    .description("Write kernel, initrd and iPXE script of machines that boot one system.")
    .requiredOption("--system <store path>", "what is booted: its init is run")
    .option("--kernel <file>", "kernel (the one in /boot)")
    .option("--modules <dir>", "its modules, lib/modules/VERSION (those of /lib/modules)")
    .addOption(
      new Option("--drivers <set>", "network cards").choices(DRIVER_SETS).default("virtio"),
    )
    .option("--busybox <file>", "a static busybox", "/bin/busybox")
    .option("--upstream <url>", "binary cache beside netboot serve, repeatable", collect)
    .option("--trusted-public-key <key>", "NAME:BASE64 to trust narinfos by, repeatable", collect)
    .option("--trusted-root-key <key>", "NAME:BASE64 to trust signed roots by, repeatable", collect)
    .option("--ca-file <file>", "certificates to trust beside Node's own")
    .option("--cache-size <size>", "memory for fetched contents: 200m, or 10%", parseSize, "10%")
    .option("--no-kernel-mount", "mount the store by FUSE: for kernels before 6.12")
    .option("--command-line <words>", "further words for the kernel", "")
    .option("--compression <level>", "of zstd, 1 to 19", parseLevel, 19)
    .option("--image", "write boot.efi, all in one file, and boot.img, a disk that starts it")
    .option("--efi-stub <file>", "what starts boot.efi: of systemd-boot-efi", EFI_STUB)
    .requiredOption("--out <dir>", "where kernel, initrd and boot.ipxe are written");
  return command.addHelpText("after", BUILD_HELP).action(() => build(command.opts<BuildOptions>()));
}

const BUILD_HELP = `
Who sends other keys in an initrd has the machine: docs/netboot.md says how to protect it.`;

async function build(options: BuildOptions): Promise<void> {
  const { upstream = [], trustedPublicKey = [], trustedRootKey = [], out } = options;
  TrustedKeys.parse(trustedPublicKey);
  TrustedRootKeys.parse(trustedRootKey);
  if (trustedPublicKey.length === 0) {
    throw new CastoreError("INVALID", "netboot build: --trusted-public-key says whom to trust");
  }
  const kernelFile = options.kernel ?? (await onlyOne("/boot", /^vmlinuz-/));
  const kernel = await readInput(kernelFile, "kernel");
  const modules = options.modules ?? (await onlyOne("/lib/modules", /./));
  const stub = options.image === true ? await readStub(options.efiStub) : undefined;
  const initrd = await buildInitrd({
    boot: {
      system: `/nix/store/${parseAbsoluteStorePath(options.system)}`,
      upstreams: upstream,
      publicKeys: trustedPublicKey,
      rootKeys: trustedRootKey,
      cacheSize: options.cacheSize,
      kernelMount: options.kernelMount,
    },
    modules,
    drivers: options.drivers,
    busybox: options.busybox,
    caFile: options.caFile,
    level: options.compression,
  });
  const { commandLine } = options;
  const script = Buffer.from(formatIpxeScript({ commandLine }));
  const files = new Map<string, Buffer>([
    ["kernel", kernel],
    ["initrd", initrd],
    ["boot.ipxe", script],
  ]);
  if (stub !== undefined) {
    const words = [...KERNEL_WORDS, commandLine].join(" ").trim();
    const program = unifiedKernelImage({ stub, kernel, initrd, commandLine: words });
    files.set("boot.efi", program).set("boot.img", bootDisk(startFileOf(stub), program));
  }
  await mkdir(out, { recursive: true });
  for (const [name, bytes] of files) {
    await writeFile(join(out, name), bytes);
    const digest = createHash("sha256").update(bytes).digest("hex");
    process.stdout.write(`${digest}  ${name}  ${bytes.byteLength}\n`);
  }
}

/** Rejects INVALID before an initrd is made for what is none. */
async function readStub(path: string): Promise<Buffer> {
  const stub = await readInput(path, "EFI stub");
  startFileOf(stub);
  return stub;
}

async function onlyOne(directory: string, pattern: RegExp): Promise<string> {
  const names = (await readdir(directory).catch(() => [])).filter((name) => pattern.test(name));
  const [name, ...others] = names;
  if (name !== undefined && others.length === 0) return join(directory, name);
  const found = names.length === 0 ? "nothing" : names.join(", ");
  throw new CastoreError("INVALID", `netboot build: ${directory} holds ${found}: name one`);
}

function parseSize(text: string): string {
  if (/^\d{1,12}[kmg%]?$/i.test(text)) return text;
  throw new InvalidArgumentError("want a size such as 200m, or a share such as 10%");
}

function parseLevel(text: string): number {
  const level = Number(text);
  if (Number.isInteger(level) && level >= 1 && level <= 19) return level;
  throw new InvalidArgumentError("want a level from 1 to 19");
}
