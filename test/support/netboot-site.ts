import { join } from "node:path";
import { type CastoreProcess, runCastore, startCastore } from "./castore-process.ts";
import type { NixWorld } from "./nix-world.ts";
import { repositoryRoot } from "./repository-root.ts";
import {
  MACHINE_COMMAND_LINE,
  MACHINE_NAME,
  type MachineExtra,
  machineParts,
} from "./virtual-machine.ts";

/** What `castore netboot serve` says of a machine. */
export interface MachineStatus {
  readonly name: string;
  readonly stage: string;
  readonly bootBytes: number;
  readonly storeBytes: number;
  readonly storeRequests: number;
}

export interface NetbootSiteOptions {
  /** Noise in the closure that nothing reads. */
  readonly ballastBytes?: number;
  /** Of the initrd, by zstd. */
  readonly compression: number;
  /** The key that machines trust, in place of the one that signs. */
  readonly trustedKey?: string;
  /** What the closure has beside python: programs that the test runs in the machine. */
  readonly extras?: readonly MachineExtra[];
}

const MACHINE_SYSTEM = join(repositoryRoot(), "test/support/machine-system.nix");

/** A system in a cache, and what machines boot it with. */
export interface NetbootSite {
  readonly system: string;
  /** What `castore netboot build` wrote. */
  readonly boot: string;
  /** Builds once more, with further options; returns where. */
  build(options: readonly string[]): Promise<string>;
  /** Serves it, with further options; the first one takes the closure from Nix. */
  serve(options: readonly string[]): Promise<CastoreProcess>;
}

export async function createNetbootSite(
  world: NixWorld,
  options: NetbootSiteOptions,
): Promise<NetbootSite> {
  const { ballastBytes = 0, compression, trustedKey = world.publicKey, extras = [] } = options;
  const { kernel, modules } = machineParts();
  const args = { ballast: `${ballastBytes}` };
  const system = await buildMachineSystem(world, { expression: MACHINE_SYSTEM, args, extras });
  const rootKey = await world.createKey("root-1");
  const trustedRootKey = await world.publicKeyOf(rootKey);
  const build = async (more: readonly string[]) => {
    const out = world.temporary("boot");
    const built = await runCastore([
      ...["netboot", "build", "--system", system, "--kernel", kernel, "--modules", modules],
      ...["--trusted-public-key", trustedKey, "--compression", `${compression}`],
      ...["--trusted-root-key", trustedRootKey, "--out", out, ...more],
    ]);
    if (built.code !== 0) throw new Error(`castore netboot build: ${built.stderr}`);
    return out;
  };
  const boot = await build([]);
  const store = world.temporary("castore");
  let isFilled = false;
  return {
    system,
    boot,
    build,
    async serve(more) {
      const server = await startCastore("netboot serve", [
        ...["--boot", boot, "--command-line", MACHINE_COMMAND_LINE, "--store", store],
        ...["--root-signing-key", rootKey, "--signing-key", world.secretKeyFile, ...more],
      ]);
      const to = `${server.url}?compression=none`;
      const copy = ["copy", "--store", world.store.uri, "--to", to, system];
      if (!isFilled) await world.run("nix", copy);
      isFilled = true;
      return server;
    },
  };
}

export interface MachineSystemOptions {
  /** A file of Nix, whose attribute "system" is built. */
  readonly expression: string;
  readonly args: Readonly<Record<string, string>>;
  readonly extras?: readonly MachineExtra[];
}

/** A store path in the store of `world`, of Debian's packages. */
export async function buildMachineSystem(
  world: NixWorld,
  { expression, args, extras = [] }: MachineSystemOptions,
): Promise<string> {
  const { debs, extraDebs } = machineParts();
  const directories = [debs, ...extras.map((extra) => extraDebs[extra])].join(" ");
  const named = Object.entries({ debs: directories, ...args });
  const argstr = named.flatMap((pair) => ["--argstr", ...pair]);
  const evaluate = ["--no-out-link", expression, "-A", "system", "--store", world.store.uri];
  return (await world.run("nix-build", [...evaluate, ...argstr])).stdout.trim();
}

/** Undefined until the machine has asked for its configuration. */
export async function machineStatus(url: string): Promise<MachineStatus | undefined> {
  const machines = (await (await fetch(`${url}/boot/machines`)).json()) as MachineStatus[];
  return machines.find(({ name }) => name === MACHINE_NAME);
}
