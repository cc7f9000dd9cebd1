import { Command } from "commander";
import { netbootBuildCommand } from "./netboot/build-command.ts";
import { netbootProfileCommand } from "./netboot/profile-command.ts";
import { netbootServeCommand } from "./netboot/serve-command.ts";

export function netbootCommand(): Command {
  return new Command("netboot")
    .description("Boot machines whose store is mounted from a cache.")
    .addCommand(netbootBuildCommand())
    .addCommand(netbootServeCommand())
    .addCommand(netbootProfileCommand());
}
