import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type CastoreProcess, runCastore, startCastore } from "./castore-process.ts";
import type { NixWorld } from "./nix-world.ts";
import { repositoryRoot } from "./repository-root.ts";
import { MACHINE_COMMAND_LINE, MACHINE_NAME, machineParts } from "./virtual-machine.ts";

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
  /** What builds its attribute "system" in place of machine-system.nix, with which arguments. */
  readonly expression?: string;
  readonly args?: Readonly<Record<string, string>>;
  /** Of the initrd, by zstd. */
  readonly compression: number;
  /** The key that machines trust, in place of the one that signs. */
  readonly trustedKey?: string;
}

const MACHINE_SYSTEM = join(repositoryRoot(), "test/support/machine-system.nix");

/** A system in a cache, and what machines boot it with. */
export interface NetbootSite {
  readonly system: string;
  /** What `castore netboot build` wrote. */
  readonly boot: string;
  /** Serves it, with further options; the first one takes the closure from Nix. */
  serve(options: readonly string[]): Promise<CastoreProcess>;
}

export async function createNetbootSite(
  world: NixWorld,
  { ballastBytes = 0, compression, trustedKey = world.publicKey, ...more }: NetbootSiteOptions,
): Promise<NetbootSite> {
  const { kernel, modules, debs } = machineParts();
  const { expression = MACHINE_SYSTEM, args = { ballast: `${ballastBytes}` } } = more;
  const named = Object.entries({ debs, ...args }).flatMap((pair) => ["--argstr", ...pair]);
  const build = ["--no-out-link", expression, "-A", "system", "--store", world.store.uri];
  const system = (await world.run("nix-build", [...build, ...named])).stdout.trim();
  const rootKey = world.temporary("root-key");
  const secret = await world.run("nix", ["key", "generate-secret", "--key-name", "root-1"]);
  await writeFile(rootKey, secret.stdout, { mode: 0o600 });
  const boot = world.temporary("boot");
  const built = await runCastore([
    ...["netboot", "build", "--system", system, "--kernel", kernel, "--modules", modules],
    ...["--trusted-public-key", trustedKey, "--compression", `${compression}`],
    ...["--trusted-root-key", await world.publicKeyOf(rootKey), "--out", boot],
  ]);
  if (built.code !== 0) throw new Error(`castore netboot build: ${built.stderr}`);
  const store = world.temporary("castore");
  let isFilled = false;
  return {
    system,
    boot,
    async serve(options) {
      const server = await startCastore("netboot serve", [
        ...["--boot", boot, "--command-line", MACHINE_COMMAND_LINE, "--store", store],
        ...["--root-signing-key", rootKey, "--signing-key", world.secretKeyFile, ...options],
      ]);
      const to = `${server.url}?compression=none`;
      const copy = ["copy", "--store", world.store.uri, "--to", to, system];
      if (!isFilled) await world.run("nix", copy);
      isFilled = true;
      return server;
    },
  };
}

/** Undefined until the machine has asked for its configuration. */
export async function machineStatus(url: string): Promise<MachineStatus | undefined> {
  const machines = (await (await fetch(`${url}/boot/machines`)).json()) as MachineStatus[];
  return machines.find(({ name }) => name === MACHINE_NAME);
}
