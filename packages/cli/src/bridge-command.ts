import { createBridgeServer, type ListenAddress, listen } from "@castore/nar-bridge";
import { Command, Option } from "commander";
import { applyConfigFile } from "./config-file.ts";
import { openCache, type StoreOptions, UNLEASED_MS } from "./local-store.ts";
import { logLine, runServer } from "./run-server.ts";
import { collect, listenOption, parseSize } from "./settings.ts";
import { openSubstituter, type UpstreamOptions } from "./stack.ts";
import { localStoreOption } from "./store-command.ts";

export interface BridgeOptions extends StoreOptions, UpstreamOptions {
  readonly listen: ListenAddress;
  readonly config?: string;
}

/** The options that say where store paths come from; several commands share them. */
export function addUpstreamOptions(command: Command): Command {
  return command
    .option(
      "--upstream <url>",
      "binary cache, repeatable, in order (cache.nixos.org unless told)",
      collect,
    )
    .option("--trusted-public-key <key>", "NAME:BASE64 to trust narinfos by, repeatable", collect)
    .option("--castore-for <upstream=url>", "castore server for an upstream, repeatable", collect)
    .addOption(
      new Option("--upgrade <mode>", "use castore where an upstream offers it")
        .choices(["auto", "never", "require"])
        .default("auto"),
    )
    .option("--upgrade-origins <origin>", "other origin an Upgrade may name, repeatable", collect)
    .option("--from-nix-config", "take substituters, keys and netrc from nix.conf as well");
}

export function bridgeCommand(): Command {
  const command = new Command("bridge")
    .description("Run the local substituter that Nix asks first.")
    .addOption(listenOption("127.0.0.1:9000"))
    .addOption(localStoreOption())
    .option("--store-max-size <size>", "evict the least recently used above this", parseSize)
    .option("--config <file>", "TOML file with these options under [bridge]");
  return addUpstreamOptions(command)
    .addHelpText("after", BRIDGE_HELP)
    .action(async () => {
      const { config } = command.opts<BridgeOptions>();
      if (config !== undefined) applyConfigFile(command, config);
      await runBridge(command.opts<BridgeOptions>());
    });
}

const BRIDGE_HELP = `
Put the bridge first in nix.conf, and the cache itself second for when the bridge is off:

  substituters = http://127.0.0.1:9000 https://cache.nixos.org
  narinfo-cache-negative-ttl = 0

Nix needs no new key: the bridge passes the signatures of the cache on.`;

async function runBridge(options: BridgeOptions): Promise<void> {
  await using opened = await openCache({ ...options, unleasedMs: UNLEASED_MS });
  await using stack = await openSubstituter(opened, options, logLine);
  const { substituter, upstreams, metrics, storeDir } = stack;
  const server = createBridgeServer({ substituter, upstreams, storeDir, metrics, log: logLine });
  await runServer("bridge", server, () => listen(server, options.listen));
}
