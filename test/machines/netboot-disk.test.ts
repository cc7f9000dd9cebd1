import { execFile } from "node:child_process";
import { truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { CastoreProcess } from "../support/castore-process.ts";
import { type FickleProxy, startFickleProxy } from "../support/fickle-proxy.ts";
import { createNetbootSite, machineStatus, type NetbootSite } from "../support/netboot-site.ts";
import { createNixWorld, type NixWorld } from "../support/nix-world.ts";
import {
  GATEWAY,
  MACHINE_COMMAND_LINE,
  machineParts,
  startMachine,
  type VirtualMachine,
} from "../support/virtual-machine.ts";

const BOOT_MS = 1_000_000;
const MEMORY_MIB = 512;
const DISK_BYTES = 256 << 20;

describe("a machine that boots from local media, with a disk for contents", () => {
  const { logs, efiStub } = machineParts();
  let world: NixWorld;
  let site: NetbootSite;
  let server: CastoreProcess;
  let proxy: FickleProxy;
  let machine: VirtualMachine;
  let disk: string;
  let firstBytes = 0;

  beforeAll(async () => {
    world = await createNixWorld();
    site = await createNetbootSite(world, { ballastBytes: 0, compression: 1, extras: ["nix"] });
    server = await site.serve([]);
    proxy = await startFickleProxy(server.url);
    const url = proxy.url.replace("127.0.0.1", GATEWAY);
    const words = `${MACHINE_COMMAND_LINE} castore.server=${url}`;
    const built = await site.build(["--image", "--efi-stub", efiStub, "--command-line", words]);
    disk = world.temporary("disk");
    await writeFile(disk, "");
    await truncate(disk, DISK_BYTES);
    await promisify(execFile)("mkfs.ext4", ["-q", "-L", "castore-cache", disk]);
    proxy.mood = "away";
    machine = await startMachine({
      image: join(built, "boot.img"),
      ...{ disk, memory: MEMORY_MIB, log: join(logs, "netboot-disk.log") },
    });
  }, BOOT_MS);

  afterAll(async () => {
    await machine?.[Symbol.asyncDispose]();
    await proxy?.[Symbol.asyncDispose]();
    await server?.[Symbol.asyncDispose]();
    await world?.[Symbol.asyncDispose]();
  });

  it("says what it waits for while the server is away, and comes up when it is back", {
    timeout: BOOT_MS,
  }, async () => {
    await machine.shows(/FAILED: no configuration from http:/);
    await machine.shows(/again in 1 s[\s\S]*again in 2 s/);
    expect(machine.console).toMatch(/why: the server does not answer\r?\n.*try: check castore/);
    proxy.mood = "honest";
    expect(await machine.answer("/")).toContain("Directory listing for /");
    firstBytes = (await machineStatus(server.url))?.storeBytes ?? 0;
    expect(firstBytes).toBeGreaterThan(5_000_000);
  });

  it("has its closure in the database of its own Nix, which finds it unchanged", {
    timeout: BOOT_MS,
  }, async () => {
    const { system } = site;
    const { stdout } = await world.run("nix-store", ["--store", world.store.uri, "-qR", system]);
    const nix = `${system}/sw/bin/nix-store`;
    const held = await machine.run(`${nix} -qR ${system} 2>/dev/null | cat`); // no pager
    expect(linesOf(held)).toEqual(linesOf(stdout));
    const path = linesOf(stdout).find((it) => it.endsWith("-zlib1g")) ?? "";
    const verify = `${nix} --verify-path ${path} 2>/dev/null && echo unchanged`;
    expect(await machine.run(verify)).toBe("unchanged\n");
  });

  it("boots once more from what its disk keeps, with the store by FUSE alone", {
    timeout: BOOT_MS,
  }, async () => {
    void machine.run("sync; poweroff -f").catch(() => {}); // it ends in the middle
    await machine.off();
    await machine[Symbol.asyncDispose]();
    await server.stop();
    const words = `${MACHINE_COMMAND_LINE} castore.kernel-mount=no`;
    server = await site.serve(["--command-line", words]);
    machine = await startMachine({
      script: `${server.url}/boot.ipxe`,
      ...{ disk, memory: MEMORY_MIB, log: join(logs, "netboot-disk-again.log") },
    });
    await machine.answer("/");
    const { storeBytes = 0 } = (await machineStatus(server.url)) ?? {};
    expect(storeBytes).toBeGreaterThan(0);
    expect(storeBytes).toBeLessThan(firstBytes / 10);
    const each = "case $(head -c 8 $p/cmdline) in @castore) cat $p/mounts; esac";
    const mounts = await machine.run(`for p in /proc/[0-9]*; do ${each}; done`);
    expect(mounts).toMatch(/ \/mnt\/store fuse/);
    expect(mounts).toMatch(/ \/disk ext4 /);
    expect(mounts).not.toContain("erofs");
  });
});

function linesOf(text: string): string[] {
  return text.trim().split("\n").sort();
}
