import { CastoreError, type GrpcServer } from "@castore/castore";
import {
  createCacheGrpcServer,
  createCacheServer,
  createReadOnlyCacheServer,
  type ListenAddress,
  listen,
  listenGrpc,
  NIX_STORE_DIR,
  RecipeStore,
  RootSigningKey,
  SecretKey,
  type UploadAccess,
} from "@castore/nar-bridge";
import { Command } from "commander";
import { applyConfigFile } from "./config-file.ts";
import { readKeys, readSecret } from "./key-files.ts";
import { type OpenStore, openStore, type StoreOptions, UNLEASED_MS } from "./local-store.ts";
import { openCachedServices, openServices } from "./remote-store.ts";
import { logLine, runServer } from "./run-server.ts";
import { collect, listenOption, parseListenAddress, parseSize } from "./settings.ts";
import { collectStoreUrls, isStoreUrl, storeOption } from "./store-command.ts";

/** How long gRPC calls under way may still take. */
const GRPC_GRACE_MS = 1_000;

interface ServeOptions extends StoreOptions {
  readonly listen: ListenAddress;
  readonly grpcListen?: ListenAddress;
  readonly far?: readonly string[];
  readonly signingKey?: readonly string[];
  readonly rootSigningKey?: readonly string[];
  readonly uploadTokenFile?: string;
  readonly upgrade: boolean;
  readonly config?: string;
}

export function serveCommand(): Command {
  const command = new Command("serve")
    .description("Serve the local store as a binary cache, castore/1 included.")
    .addOption(listenOption("127.0.0.1:9001"))
    .option("--grpc-listen <address>", "also speak snix's gRPC there", parseListenAddress)
    .addOption(storeOption())
    .option("--far <url>", "serve what is there, too, once copied; repeatable", collectStoreUrls)
    .option("--store-max-size <size>", "evict the least recently used above this", parseSize)
    .option("--signing-key <file>", "sign narinfos that come unsigned, repeatable", collect)
    .option("--root-signing-key <file>", "sign root nodes with this key, repeatable", collect)
    .option("--upload-token-file <file>", "who knows this token may upload")
    .option("--no-upgrade", "be a plain binary cache only")
    .option("--config <file>", "TOML file with these options under [serve]")
    .addHelpText("after", SERVE_HELP);
  return command.action(async () => {
    const { config } = command.opts<ServeOptions>();
    if (config !== undefined) applyConfigFile(command, config);
    await runServe(command.opts<ServeOptions>());
  });
}

const SERVE_HELP = `
Fill it with Nix, from this machine or anywhere with the token as netrc password:

  nix copy --to http://127.0.0.1:9001 /nix/store/…

Keys are made by: nix-store --generate-binary-cache-key NAME SECRET-FILE PUBLIC-FILE`;

async function runServe(options: ServeOptions): Promise<void> {
  const isRemote = (options.far ?? []).length > 0 || isStoreUrl(options.store ?? "");
  await (isRemote ? serveServices(options) : serveLocalStore(options));
}

/** What a cache is served from. */
interface ServedParts extends Pick<OpenStore, "store" | "pathInfos"> {
  readonly recipes: RecipeStore;
  readonly rootSigningKeys: readonly RootSigningKey[];
}

/** A command that serves more than a cache. */
export interface Extension {
  readonly name: "serve" | "netboot serve";
  readonly extend: (server: ReturnType<typeof createCacheServer>, parts: ServedParts) => void;
}

/** Serves a local store, and what the extension adds to the server, until it is told to end. */
export async function serveLocalStore(
  options: ServeOptions,
  { name, extend }: Extension = { name: "serve", extend: () => {} },
): Promise<void> {
  const signingKeys = (await readKeys(options.signingKey)).map((text) => SecretKey.parse(text));
  const rootTexts = await readKeys(options.rootSigningKey);
  const rootSigningKeys = rootTexts.map((text) => RootSigningKey.parse(text));
  const access = await uploadAccess(options.uploadTokenFile);
  await using opened = await openStore({ ...options, unleasedMs: UNLEASED_MS });
  const { store, pathInfos } = opened;
  const shared = { pathInfos, storeDir: NIX_STORE_DIR, log: logLine };
  await using recipes = new RecipeStore(store);
  const server = createCacheServer({
    ...shared,
    store,
    recipes,
    uploads: { access, signingKeys, rootSigningKeys },
    upgrade: options.upgrade,
    rootKeys: rootSigningKeys.map(({ publicKey }) => publicKey.text),
  });
  extend(server, { store, pathInfos, recipes, rootSigningKeys });
  const { chunks } = store;
  await run(name, options, server, createCacheGrpcServer({ ...shared, services: store, chunks }));
}

/** A server that keeps nothing but what near caches; over HTTP it is only read. */
async function serveServices(options: ServeOptions): Promise<void> {
  const { signingKey, rootSigningKey, uploadTokenFile } = options;
  if ((signingKey ?? rootSigningKey ?? uploadTokenFile) !== undefined) {
    const message = "uploads need a local store and no --far: drop the keys and the token";
    throw new CastoreError("INVALID", message);
  }
  const { far = [] } = options;
  await using opened = await (far.length === 0
    ? openServices(options)
    : openCachedServices(options, far));
  const { services, pathInfos } = opened;
  const shared = { services, pathInfos, storeDir: NIX_STORE_DIR, log: logLine };
  await run("serve", options, createReadOnlyCacheServer(shared), createCacheGrpcServer(shared));
}

async function run(
  name: Extension["name"],
  { listen: address, grpcListen }: ServeOptions,
  server: ReturnType<typeof createCacheServer>,
  grpc: GrpcServer,
): Promise<void> {
  const close = async (): Promise<void> => {
    await Promise.all([server.close(), grpc.close(GRPC_GRACE_MS)]);
  };
  await runServer(name, { close }, async () => {
    if (grpcListen !== undefined) logLine(`gRPC on ${await listenGrpc(grpc, grpcListen)}`);
    return await listen(server, address);
  });
}

async function uploadAccess(file: string | undefined): Promise<UploadAccess> {
  if (file === undefined) return { from: "loopback" };
  const token = (await readSecret(file)).trim();
  if (token === "") throw new CastoreError("INVALID", `${file}: holds no token`);
  return { token };
}
