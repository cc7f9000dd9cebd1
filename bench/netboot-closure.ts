import { copyFile, cp, mkdir, readFile, readlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { runCastore, startCastore } from "../test/support/castore-process.ts";
import { buildMachineSystem } from "../test/support/netboot-site.ts";
import { createNixWorld, type NixWorld } from "../test/support/nix-world.ts";
import { repositoryRoot } from "../test/support/repository-root.ts";
import { machineParts } from "../test/support/virtual-machine.ts";
import { kept } from "./kept.ts";

const SHARE_BYTES = 60e6;
const PACKED_ZSTD_LEVEL = 9;

/** A system in a store of castore, and packed whole into an initrd. */
export interface NetbootClosure {
  readonly system: string;
  /** Of the closure. */
  readonly bytes: number;
  readonly files: number;
  /** Of the closure's NARs: one of the shares, which are alike by chance, stands for all. */
  readonly xzBytes: number;
  /** A directory with `kernel` and `initrd`. */
  readonly packed: string;
  readonly store: string;
  readonly secretKeyFile: string;
  readonly publicKey: string;
  readonly rootKeyFile: string;
  readonly rootKey: string;
}

type Facts = Pick<NetbootClosure, "system" | "bytes" | "files" | "xzBytes">;

/** Made once: it takes minutes, and no code of what is measured is part of it. */
export async function netbootClosure(bytes: number): Promise<NetbootClosure> {
  const { directory, prepare } = kept(`netboot-closures/${bytes}`, (at) => makeClosure(at, bytes));
  await prepare();
  const within = (name: string) => join(directory, name);
  const read = (name: string) => readFile(within(name), "utf8");
  return {
    ...(JSON.parse(await read("facts.json")) as Facts),
    packed: within("packed"),
    store: within("store"),
    secretKeyFile: within("cache.sec"),
    publicKey: await read("cache.pub"),
    rootKeyFile: within("root.sec"),
    rootKey: await read("root.pub"),
  };
}

async function makeClosure(directory: string, bytes: number): Promise<void> {
  await using world = await createNixWorld();
  const within = (name: string) => join(directory, name);
  const shares = Math.max(1, Math.round(bytes / SHARE_BYTES));
  const shareBytes = Math.round(bytes / shares);
  const system = await buildMachineSystem(world, {
    expression: join(repositoryRoot(), "bench/bulk-system.nix"),
    args: { shares: `${shares}`, shareBytes: `${shareBytes}` },
  });
  const rootKeyFile = await world.createKey("root-1");
  await copyFile(world.secretKeyFile, within("cache.sec"));
  await copyFile(rootKeyFile, within("root.sec"));
  await writeFile(within("cache.pub"), world.publicKey);
  await writeFile(within("root.pub"), await world.publicKeyOf(rootKeyFile));
  await fillStore(world, system, within("store"));
  await packWhole(world, system, within("packed"));
  await writeFile(within("facts.json"), JSON.stringify(await factsOf(world, system, shares)));
}

async function fillStore(world: NixWorld, system: string, store: string): Promise<void> {
  const keys = ["--signing-key", world.secretKeyFile];
  await using server = await startCastore("serve", ["--store", store, ...keys]);
  const to = `${server.url}?compression=none`;
  await world.run("nix", ["copy", "--store", world.store.uri, "--to", to, system]);
}

async function factsOf(world: NixWorld, system: string, shares: number): Promise<Facts> {
  const within = (name: string) => join(world.store.fileOf(system), name);
  const [share = ""] = (await readFile(within("shares"), "utf8")).trim().split(" ");
  const machine = dirname(await readlink(within("init")));
  const xz = async (path: string) => {
    const nar = join(await world.copyToCache([path], "xz"), "nar");
    return Number((await world.run("du", ["-sb", nar])).stdout.split("\t")[0]);
  };
  const infos = await world.pathInfos(world.store.uri, [system]);
  const trees = infos.map(({ path }) => world.store.fileOf(path));
  const list = await world.run("find", [...trees, "-type", "f", "-printf", "."]);
  return {
    system,
    bytes: infos.reduce((sum, { narSize }) => sum + narSize, 0),
    files: list.stdout.length,
    xzBytes: (await xz(machine)) + shares * (await xz(share)),
  };
}

/** A kernel, and an initrd with all of the closure. */
async function packWhole(world: NixWorld, system: string, packed: string): Promise<void> {
  const { kernel, modules } = machineParts();
  const tree = world.temporary("tree");
  await mkdir(join(tree, "nix/store"), { recursive: true });
  await mkdir(join(tree, "bin"));
  for (const name of ["modules", "etc"]) await mkdir(join(tree, name));
  const netboot = join(repositoryRoot(), "packages/cli/netboot");
  await cp("/bin/busybox", join(tree, "bin/busybox"));
  await cp(join(netboot, "dhcp"), join(tree, "dhcp"));
  await writeFile(join(tree, "system"), system);
  const init = await readFile(join(repositoryRoot(), "bench/packed-initrd.sh"));
  await writeFile(join(tree, "init"), init, { mode: 0o755 });
  for (const { path } of await world.pathInfos(world.store.uri, [system])) {
    await world.run("cp", ["-a", world.store.fileOf(path), join(tree, "nix/store/")]);
  }
  for (const name of ["net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net"]) {
    const from = join(modules, "kernel", `${name}.ko.xz`);
    const to = join(tree, "modules", `${name.split("/").at(-1)}.ko`);
    await world.run("sh", ["-c", `xz -dc '${from}' > '${to}'`]);
  }
  await mkdir(packed);
  await copyFile(kernel, join(packed, "kernel"));
  const pack = `cd '${tree}'; find . | busybox cpio -o -H newc 2>/dev/null`;
  const compress = `zstd -q -T0 -${PACKED_ZSTD_LEVEL} -o '${packed}/initrd'`;
  await world.run("bash", ["-c", `${pack} | ${compress}`]);
}

/** What `castore netboot build` writes for machines that boot the closure lazily. */
export async function buildBoot(
  closure: NetbootClosure,
  { out, compression }: { readonly out: string; readonly compression: number },
): Promise<void> {
  const { kernel, modules } = machineParts();
  const built = await runCastore([
    ...["netboot", "build", "--system", closure.system, "--kernel", kernel, "--modules", modules],
    ...["--trusted-public-key", closure.publicKey, "--trusted-root-key", closure.rootKey],
    ...["--compression", `${compression}`, "--out", out],
  ]);
  if (built.code !== 0) throw new Error(`castore netboot build: ${built.stderr}`);
}
