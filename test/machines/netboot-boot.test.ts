import { createHash } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { CastoreProcess } from "../support/castore-process.ts";
import { Chromium } from "../support/chromium.ts";
import { type FickleProxy, startFickleProxy } from "../support/fickle-proxy.ts";
import { createNetbootSite, machineStatus } from "../support/netboot-site.ts";
import { createNixWorld, type NixWorld } from "../support/nix-world.ts";
import { type ShortLease, startShortLease } from "../support/short-lease.ts";
import {
  MACHINE_NAME,
  machineParts,
  startMachine,
  type VirtualMachine,
} from "../support/virtual-machine.ts";

/** A boot under software emulation takes 40 s on a quiet machine, minutes on a busy one. */
const BOOT_MS = 1_000_000;
/** More than a machine of so little memory keeps of contents: a tenth of its memory. */
const BALLAST_BYTES = 80_000_000;
const MEMORY_MIB = 512;
const LEASE_SECONDS = 60;

describe("a machine that boots from castore netboot serve", () => {
  const { logs } = machineParts();
  let world: NixWorld;
  let server: CastoreProcess;
  let proxy: FickleProxy;
  let lease: ShortLease;
  let machine: VirtualMachine;
  let system: string;
  /** How often the machine, or its firmware, had been given an address when it was up. */
  let leased = 0;

  beforeAll(async () => {
    world = await createNixWorld();
    const site = await createNetbootSite(world, {
      ...{ ballastBytes: BALLAST_BYTES, compression: 1, extras: ["network"] },
    });
    system = site.system;
    const configurations = world.temporary("machines");
    await mkdir(configurations);
    const lines = ["hostname=vm", "init=/nix/store/elsewhere/init", "public-key=x:y"];
    await writeFile(join(configurations, "52-54-00-12-34-56.conf"), lines.join("\n"));
    server = await site.serve(["--machines", configurations, "--traces", configurations]);
    proxy = await startFickleProxy(server.url);
    lease = await startShortLease(world.directory, LEASE_SECONDS);
    machine = await startMachine({
      script: `${proxy.url}/boot.ipxe`,
      ...{ memory: MEMORY_MIB, network: lease },
      log: join(logs, "netboot-machine.log"),
    });
  }, BOOT_MS);

  afterAll(async () => {
    await machine?.[Symbol.asyncDispose]();
    await lease?.[Symbol.asyncDispose]();
    await proxy?.[Symbol.asyncDispose]();
    await server?.[Symbol.asyncDispose]();
    await world?.[Symbol.asyncDispose]();
  });

  it("comes up: python in it answers over HTTP", { timeout: BOOT_MS }, async () => {
    expect(await machine.answer("/")).toContain("Directory listing for /");
    expect(machine.console).toContain(`castore: boots ${system}/init`);
    leased = lease.acknowledgements;
    expect(leased).toBeGreaterThanOrEqual(2);
  });

  it("was sent the closure's files that it looked at, and not the rest", async () => {
    const { storeBytes = 0, bootBytes = 0, stage } = (await machineStatus(server.url)) ?? {};
    expect(stage).toBe(`starts ${system}/init`);
    expect(bootBytes).toBeGreaterThan(30_000_000);
    expect(storeBytes).toBeGreaterThan(5_000_000);
    expect(storeBytes).toBeLessThan(20_000_000);
  });

  it("took neither another system nor a key from its configuration", async () => {
    expect(machine.console).toContain("init=/nix/store/elsewhere/init is not in");
    expect(machine.console).toMatch(/refused of .*: public-key/);
  });

  it("finds the registration of its closure, as the real Nix has it", async () => {
    const { stdout } = await world.run("nix-store", ["--store", world.store.uri, "-qR", system]);
    const paths = stdout.trim().split("\n");
    const dump = await world.run("nix-store", ["--store", world.store.uri, "--dump-db", ...paths]);
    const registration = await machine.answer("/castore/registration");
    expect(records(registration)).toEqual(records(dump.stdout));
  });

  it("stands on the page of the server, in a browser", async () => {
    await using chromium = await Chromium.start({ host: "127.0.0.1" });
    await chromium.open(`${server.url}/boot/`);
    const cells = "[...document.querySelectorAll('tbody td')].map((it) => it.textContent)";
    const shown = () => chromium.evaluate<string[]>(cells);
    await expect.poll(shown, { timeout: 60_000 }).toContain(MACHINE_NAME);
    expect(await shown()).toContain(`starts ${system}/init`);
    expect(chromium.complaints).toEqual([]);
  });

  it("keeps its store in a process that systemd and the kernel spare", async () => {
    const each = "case $(head -c 8 $p/cmdline) in @castore) echo $p;; esac";
    const of = `for p in /proc/[0-9]*; do ${each}; done`;
    const [first = ""] = (await machine.run(of)).trim().split("\n");
    expect(await machine.run(`cat ${first}/oom_score_adj`)).toBe("-1000\n");
    const status = await machine.run(`grep RssAnon ${first}/status`);
    const [, kib = ""] = /(\d+) kB/.exec(status) ?? [];
    expect(Number(kib)).toBeGreaterThan(10_000);
    expect(Number(kib)).toBeLessThan(100 * 1024);
  });

  it("goes on after a restart of its network", { timeout: BOOT_MS }, async () => {
    await machine.run("ip link set eth0 down; sleep 1; ip link set eth0 up");
    await readCold("libexpat1");
  });

  it("keeps its address when dhcpcd takes it away at its end", { timeout: BOOT_MS }, async () => {
    await machine.run("mkdir -p /var/lib/dhcpcd; ln -s /run /var/run; : >/tmp/conf");
    const dhcpcd = "/usr/sbin/dhcpcd -4 -d -f /tmp/conf";
    expect(await machine.run(`${dhcpcd} eth0 2>&1`)).toContain("deleting IP address 10.0.2.15/24");
    await machine.run(`${dhcpcd} -x eth0`);
    await readCold("dhcpcd-base");
    expect(await machine.run("ip -4 route show")).toContain("default via 10.0.2.2 dev eth0");
  });

  it("has systemd-networkd keep its hands off", { timeout: BOOT_MS }, async () => {
    // As systemd and udev would, and a system that manages whatever there is.
    await machine.run("mkdir -p /run/udev/data; echo I:1 >/run/udev/data/n2");
    await machine.run("mkdir /run/systemd/netif; chown 998:998 /run/systemd/netif");
    const all = "/run/systemd/network/80-all.network";
    await machine.run(`printf '[Match]\\nName=eth*\\n[Network]\\nDHCP=ipv4\\n' >${all}`);
    await machine.run("(/lib/systemd/systemd-networkd >/dev/null 2>&1 &)");
    const state = () => machine.run("cat /run/systemd/netif/links/2");
    const options = { timeout: BOOT_MS, interval: 1_000 };
    await expect.poll(state, options).toMatch(/ADMIN_STATE=(?!pending|initialized)/);
    expect(await state()).toContain("ADMIN_STATE=unmanaged");
    await machine.run("killall systemd-networkd");
    await readCold("systemd");
  });

  it("renews a lease of a minute, for as long as it runs", { timeout: BOOT_MS }, async () => {
    const renewals = () => lease.acknowledgements - leased;
    const options = { timeout: BOOT_MS, interval: 1_000 };
    await expect.poll(renewals, options).toBeGreaterThanOrEqual(2);
    await readCold("libkmod2");
  });

  it("reads more than its cache holds", { timeout: BOOT_MS }, async () => {
    const noise = (await machine.run(`cat ${system}/etc/noise`)).trim();
    const file = join(world.store.fileOf(noise), "noise");
    const wanted = createHash("sha256")
      .update(await readFile(file))
      .digest("hex");
    expect(await machine.run(`sha256sum ${noise}/noise`)).toContain(wanted);
    expect(await machine.run("dmesg")).not.toMatch(/Out of memory|Unknown symbol/);
  });

  it("takes no contents that were changed on their way, and waits", {
    timeout: BOOT_MS,
  }, async () => {
    await change("lying", "libbz2-1.0");
  });

  it("waits for a server that is away, and goes on when it is back", {
    timeout: BOOT_MS,
  }, async () => {
    await change("away", "zlib1g");
  });

  it("reads a cold page when all but its store is killed, and switches itself off", {
    timeout: BOOT_MS,
  }, async () => {
    void machine.run(`stop ${cold("libssl3")}`).catch(() => {}); // it ends in the middle
    await machine.off();
    expect(machine.console).toContain(await sum("libssl3"));
  });

  /** Reads a cold file while the server is in that mood; it must come once that has passed. */
  async function change(mood: "lying" | "away", name: string): Promise<void> {
    proxy.mood = mood;
    const read = `(sha256sum < ${cold(name)} > /srv/new; mv /srv/new /srv/${name}) & :`;
    await machine.run(`dmesg -c >/dev/null; ${read}`);
    const log = () => machine.run("dmesg");
    const options = { timeout: BOOT_MS, interval: 1_000 };
    await expect.poll(log, options).toContain("tried again until it comes");
    proxy.mood = "honest";
    expect(await machine.answer(`/${name}`)).toContain(await sum(name));
  }

  /** Reads a file that nothing has read yet. */
  async function readCold(name: string): Promise<void> {
    expect(await machine.run(`sha256sum < ${cold(name)}`)).toContain(await sum(name));
  }

  /** A file that nothing has read yet. */
  function cold(name: string): string {
    return `${system}/usr/share/doc/${name}/copyright`;
  }

  async function sum(name: string): Promise<string> {
    const packages = (await world.pathInfos(world.store.uri, [system])).map(({ path }) => path);
    const path = packages.find((it) => it.endsWith(`-${name}`)) ?? "";
    const file = join(world.store.fileOf(path), `usr/share/doc/${name}/copyright`);
    return createHash("sha256")
      .update(await readFile(file))
      .digest("hex");
  }
});

/** Names, sizes and references of a registration; hashes may be written in several ways. */
function records(text: string): Map<string, unknown> {
  const lines = text.split("\n");
  const found = new Map<string, unknown>();
  for (let at = 0; at + 4 < lines.length; ) {
    const count = Number(lines[at + 4]);
    const references = lines.slice(at + 5, at + 5 + count).sort();
    found.set(lines[at] ?? "", { size: lines[at + 2], references });
    at += 5 + count;
  }
  return found;
}
