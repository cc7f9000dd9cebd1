import { join } from "node:path";
import { expect, it } from "vitest";
import { createNetbootSite, machineStatus } from "../support/netboot-site.ts";
import { createNixWorld } from "../support/nix-world.ts";
import { MACHINE_COMMAND_LINE, machineParts, startMachine } from "../support/virtual-machine.ts";

const BOOT_MS = 1_000_000;
/** Of somebody else. */
const OTHER_KEY = "world-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

it(
  "a machine that trusts another key boots nothing, says why, and tries again",
  async () => {
    await using world = await createNixWorld();
    const options = { ballastBytes: 0, compression: 1, trustedKey: OTHER_KEY };
    const site = await createNetbootSite(world, options);
    // With an address from the command line, as where there is no DHCP.
    const words = `${MACHINE_COMMAND_LINE} ip=10.0.2.15::10.0.2.2:255.255.255.0`;
    await using server = await site.serve(["--command-line", words]);
    await using machine = await startMachine({
      script: `${server.url}/boot.ipxe`,
      memory: 512,
      log: join(machineParts().logs, "netboot-refused.log"),
    });
    await machine.shows(/FAILED: the store cannot be mounted/);
    await machine.shows(/again in 2 s/);
    expect(machine.console).toMatch(/why: [\s\S]*(absent|no trusted signature)/);
    expect(machine.console).not.toContain("machine: starts");
    expect((await machineStatus(server.url))?.stage).toBe("failed: the store cannot be mounted");
  },
  BOOT_MS,
);
