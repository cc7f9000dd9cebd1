import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "vitest";
import { startFickleProxy } from "../support/fickle-proxy.ts";
import { createNetbootSite, machineStatus } from "../support/netboot-site.ts";
import { createNixWorld } from "../support/nix-world.ts";
import { freePort } from "../support/ports.ts";
import {
  GATEWAY,
  MACHINE_COMMAND_LINE,
  machineParts,
  startMachine,
} from "../support/virtual-machine.ts";

const BOOT_MS = 1_000_000;
/** Of somebody else. */
const OTHER_KEY = "world-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

it(
  "a machine that trusts another key boots nothing, says why, and does as it was told",
  async () => {
    await using world = await createNixWorld();
    const options = { ballastBytes: 0, compression: 1, trustedKey: OTHER_KEY };
    const site = await createNetbootSite(world, options);
    const configurations = world.temporary("machines");
    await mkdir(configurations);
    await writeFile(join(configurations, "default.conf"), "on-failure=reboot\n");
    const port = await freePort();
    await using proxy = await startFickleProxy(`http://127.0.0.1:${port}`);
    proxy.mood = "away";
    const words = [
      MACHINE_COMMAND_LINE,
      `castore.server=${proxy.url.replace("127.0.0.1", GATEWAY)}`,
      "castore.on-failure=shell",
      // An address from the command line, as where there is no DHCP.
      `ip=10.0.2.15::${GATEWAY}:255.255.255.0`,
    ];
    await using server = await site.serve([
      ...["--listen", `127.0.0.1:${port}`, "--machines", configurations],
      ...["--command-line", words.join(" ")],
    ]);
    await using machine = await startMachine({
      script: `${server.url}/boot.ipxe`,
      memory: 512,
      log: join(machineParts().logs, "netboot-refused.log"),
    });
    await machine.shows(/FAILED: no configuration[\s\S]*a shell; "exit" tries again/);
    expect(await machine.run("ip -4 addr show eth0")).toContain("inet 10.0.2.15/24");
    proxy.mood = "honest";
    void machine.run("exit").catch(() => {}); // the shell, which then shows no end of it
    await machine.shows(/FAILED: the store cannot be mounted/);
    await machine.shows(/reboots in 10 s/);
    expect(machine.console).toMatch(/why: [\s\S]*(absent|no trusted signature)/);
    expect((await machineStatus(server.url))?.stage).toBe("failed: the store cannot be mounted");
    await machine.off(); // its reboot ends it here
    expect(machine.console).not.toContain("machine: starts");
  },
  BOOT_MS,
);
