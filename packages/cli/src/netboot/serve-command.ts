import { access } from "node:fs/promises";
import { join } from "node:path";
import { CastoreError } from "@castore/castore";
import type { ListenAddress } from "@castore/nar-bridge";
import { Command } from "commander";
import { type Extension, serveLocalStore } from "../serve-command.ts";
import { collect, listenOption, parseSize } from "../settings.ts";
import { BootImages } from "./boot-images.ts";
import { addBootRoutes } from "./boot-routes.ts";

interface NetbootServeOptions {
  readonly listen: ListenAddress;
  readonly boot: string;
  readonly machines?: string;
  readonly commandLine: string;
  readonly profile?: string;
  readonly traces?: string;
  readonly store?: string;
  readonly storeMaxSize?: number;
  readonly signingKey?: readonly string[];
  readonly rootSigningKey?: readonly string[];
  readonly uploadTokenFile?: string;
}

export function netbootServeCommand(): Command {
  const command = new Command("serve")
    .description("Serve kernel, initrd, iPXE script and the cache to machines that boot.")
    .requiredOption("--boot <dir>", "what castore netboot build wrote")
    .addOption(listenOption("0.0.0.0:9002"))
    .option("--machines <dir>", "their configurations: 52-54-00-12-34-56.conf, default.conf")
    .option("--command-line <words>", "further words for the kernel", "")
    .option("--profile <file>", "what machines load ahead: castore netboot profile writes it")
    .option("--traces <dir>", "keep there what machines touch while they boot")
    .option("--store <dir>", "local store ($CASTORE_STORE or your cache directory)")
    .option("--store-max-size <size>", "evict the least recently used above this", parseSize)
    .option("--signing-key <file>", "sign narinfos that come unsigned, repeatable", collect)
    .option("--root-signing-key <file>", "sign root nodes with this key, repeatable", collect)
    .option("--upload-token-file <file>", "who knows this token may upload")
    .addHelpText("after", SERVE_HELP);
  return command.action(() => serve(command.opts<NetbootServeOptions>()));
}

const SERVE_HELP = `
Machines load http://HOST:PORT/boot.ipxe; http://HOST:PORT/boot/ shows how far they are.`;

async function serve(options: NetbootServeOptions): Promise<void> {
  for (const name of ["kernel", "initrd"]) {
    await access(join(options.boot, name)).catch((cause: unknown) => {
      const hint = "castore netboot build --out writes it";
      throw new CastoreError("INVALID", `${join(options.boot, name)}: ${hint}`, { cause });
    });
  }
  const { boot, commandLine, machines: configurations, profile, traces } = options;
  const extend: Extension["extend"] = (server, parts) => {
    const images = new BootImages(parts);
    const imageOf = (storePath: string) => images.of(storePath);
    addBootRoutes(server, { boot, commandLine, configurations, profile, traces, imageOf });
  };
  await serveLocalStore({ ...options, upgrade: true }, { name: "netboot serve", extend });
}
