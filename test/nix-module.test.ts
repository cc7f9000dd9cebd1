import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createNixWorld, type NixWorld } from "./support/nix-world.ts";
import { repositoryRoot } from "./support/repository-root.ts";

/** As much of nixpkgs' lib as the module uses, and a system that has it switched on. */
const EVALUATE = `
  let
    lib = {
      mkEnableOption = text: { inherit text; };
      mkOption = option: option;
      mkIf = condition: value: if condition then value else { };
      mkDefault = value: value;
      types = { str = "str"; listOf = type: "list of \${type}"; };
    };
    module = import MODULE {
      inherit lib;
      pkgs = { };
      config = {
        castore.netboot = { enable = true; interfaces = [ "eth0" ]; };
        nix.package = "/nix/store/x-nix";
      };
    };
  in { inherit (module) options config; }
`;

describe("the NixOS module for netboot", () => {
  let world: NixWorld;
  beforeAll(async () => {
    world = await createNixWorld();
  });
  afterAll(() => world[Symbol.asyncDispose]());

  it("evaluates, and leaves disk, initrd and the store's network alone", async () => {
    const expression = EVALUATE.replace("MODULE", join(repositoryRoot(), "nix/netboot.nix"));
    const args = ["--eval", "--strict", "--json", "-E", expression];
    const { stdout } = await world.run("nix-instantiate", args);
    const { options, config } = JSON.parse(stdout);
    expect(Object.keys(options.castore.netboot)).toEqual(["enable", "interfaces"]);
    expect(config.boot.initrd.enable).toBe(false);
    expect(config.fileSystems["/"].fsType).toBe("tmpfs");
    expect(config.networking.dhcpcd.denyInterfaces).toEqual(["eth0"]);
    expect(config.boot.postBootCommands).toContain(
      "/nix/store/x-nix/bin/nix-store --load-db < /run/castore/registration",
    );
  });
});
