import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, realpath } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import {
  CastoreError,
  digestOf,
  type LocalStore,
  type PathComponent,
  pathComponentOfText,
  type RootNodes,
} from "@castore/castore";
import {
  buildKernelImage,
  ImageNeighbours,
  INHERITED_MOUNT,
  isCastoreMount,
  mountKernel,
  mountStore,
  superviseMount,
  unmountFuse,
} from "@castore/fuse";
import {
  createStoreRootNodes,
  ImagedBlobs,
  LazyBlobs,
  LazyPaths,
  parseAbsoluteStorePath,
  type StorePath,
  type StoreRootNodes,
  storePathHash,
} from "@castore/nar-bridge";
import { Command, Option } from "commander";
import { addUpstreamOptions } from "./bridge-command.ts";
import { type Contents, heldContents, lastingContents, recentContents } from "./contents.ts";
import { openImagedClosure } from "./imaged-closure.ts";
import { openCache, type StoreOptions, UNLEASED_MS } from "./local-store.ts";
import { NixDatabase } from "./nix-database.ts";
import { patientBlobs } from "./patient-blobs.ts";
import { writeRegistration } from "./registration.ts";
import { logLine } from "./run-server.ts";
import { collect, defaultStorePath, parseSeconds, parseSize } from "./settings.ts";
import { openSubstituter, type UpstreamOptions } from "./stack.ts";
import { localStoreOption } from "./store-command.ts";
import { STORE_EXTRAS } from "./store-extras.ts";

interface MountCommandOptions extends StoreOptions, UpstreamOptions {
  readonly listRoot?: boolean;
  readonly allowOther?: boolean;
  readonly over?: boolean;
  readonly passthrough?: boolean;
  readonly xattr?: boolean;
  readonly timeout: number;
  readonly kernel?: boolean;
  readonly pathsFrom?: string;
  readonly nixDb?: string;
  readonly registration?: string;
  readonly image?: string;
  readonly contentsMaxSize?: number;
  readonly contents?: string;
  readonly patient?: boolean;
  readonly trace?: string;
  readonly prefetch?: string;
  readonly background?: boolean;
  readonly serveInherited?: boolean;
}

/** Below the local store: a directory for contents that may go. */
const CONTENTS = "contents";
/** Of contents in memory where the contents in the store are limited. */
const BLOCKS_BYTES = 4 << 20;
const CHUNKS_MAX = 16;
/** How soon --patient asks a server again that failed. */
const PATIENT_REST_MS = 2_000;
/** For the process that serves a mount which its parent holds. */
const SERVE_INHERITED = "--serve-inherited";

/** The most that one request brings. */
const READ_AHEAD_KIB = 1024;

export function mountCommand(): Command {
  const command = new Command("mount")
    .description("Mount store paths: those of the local store, others on first use.")
    .addOption(localStoreOption())
    .option("--list-root", "let the mountpoint be listed: what the local store holds")
    .option("--allow-other", "let other users look (for users: user_allow_other in fuse.conf)")
    .option(
      "--trusted-root-key <key>",
      "NAME:BASE64 by whose word paths are used file by file, repeatable",
      collect,
    )
    .option("--over", "mount over a directory that is not empty")
    .option("--passthrough", "let the kernel read large files from the store itself (root)")
    .option("--xattr", "show digests as extended attributes")
    .option("--timeout <seconds>", "a program that waits so long gets an error", parseSeconds, 60)
    .option("--kernel", "with the kernel as file system: a fixed set, named by --paths-from (root)")
    .option("--paths-from <file>", "store paths for --kernel and --nix-db, with all below them")
    .option("--nix-db <dir>", "register what is mounted with the Nix whose NIX_STATE_DIR this is")
    .option("--registration <file>", "write there what nix-store --load-db takes of --paths-from")
    .option("--image <file>", "for --kernel: all metadata, as castore netboot serve has made them")
    .option(
      "--contents-max-size <size>",
      "keep about so much of files that come one by one; fetch again what is needed again",
      parseSize,
    )
    .option("--contents <dir>", "keep those there, also for later mounts: on another disk, say")
    .option("--patient", "try again for ever what cannot be had; for a mount that is a system")
    .option("--trace <file>", "append to it what is touched, in order")
    .option("--prefetch <file>", "load ahead what a trace names")
    .option("--background", "return once it is mounted")
    .addOption(new Option(SERVE_INHERITED).hideHelp())
    .argument("<mountpoint>", "an empty directory");
  return addUpstreamOptions(command)
    .addHelpText("after", MOUNT_HELP)
    .action(async (mountpoint: string) => {
      const options = command.opts<MountCommandOptions>();
      if (options.background === true) await runInBackground();
      else if (options.kernel === true) await serveByKernel(resolve(mountpoint), options);
      else if (options.serveInherited === true) await serveMount(resolve(mountpoint), options);
      else await superviseServer(resolve(mountpoint), options);
    });
}

const MOUNT_HELP = `
Nothing is fetched before it is looked at. "castore umount" takes the mount away, as do SIGTERM
and SIGINT. What was looked at stays in the store until then.`;

export function umountCommand(): Command {
  const command = new Command("umount")
    .description("Take away what castore mount mounted, whether it still runs or not.")
    .option("--lazy", "although it is in use: its users may finish")
    .option("--force", "although it is in use: its users get errors")
    .argument("<mountpoint>", "where it is mounted");
  return command.action(async (named: string) => {
    // Not of the whole: looking at the mount itself would wait for its server.
    const mountpoint = join(await realpath(dirname(resolve(named))), basename(resolve(named)));
    if (!isCastoreMount(mountpoint)) {
      throw new CastoreError("INVALID", `umount ${named}: castore mounted nothing there`);
    }
    await unmountFuse(mountpoint, command.opts());
  });
}

/** Mounts, and lets this command, started again, serve: as often as it takes. */
async function superviseServer(mountpoint: string, options: MountCommandOptions): Promise<void> {
  const mount = await superviseMount({
    mountpoint,
    command: [process.execPath, ...process.execArgv, ...process.argv.slice(1), SERVE_INHERITED],
    allowOther: options.allowOther,
    over: options.over,
    readAheadKib: readAheadOf(options),
    timeoutMs: options.timeout * 1000,
    log: logLine,
  });
  endOnSignal(mount);
  process.stdout.write(`castore mount serves ${mountpoint}\n`);
  await mount.ended;
}

async function serveMount(mountpoint: string, options: MountCommandOptions): Promise<void> {
  process.stderr.on("error", () => {});
  // A terminal's signals come here, too; the parent acts on them.
  for (const signal of ["SIGINT", "SIGHUP"] as const) process.on(signal, () => {});
  await using stores = await openMountStores(mountpoint, options);
  const { shared, nixDatabase } = stores;
  await register(stores, options);
  const named = options.pathsFrom === undefined ? [] : await readPaths(options.pathsFrom);
  // Before the first request is answered, so before the command says that it is mounted.
  await nixDatabase?.register([...named, ...(await heldNames(shared.roots))]);
  const mount = await mountStore({
    ...shared,
    mountpoint,
    inherited: INHERITED_MOUNT,
    listRoot: options.listRoot,
    passthrough: options.passthrough,
    xattr: options.xattr,
    trace: options.trace,
    prefetch: options.prefetch,
  });
  await mount.ended;
  await nixDatabase?.close();
  await shared.roots.release();
}

async function serveByKernel(mountpoint: string, options: MountCommandOptions): Promise<void> {
  if (options.pathsFrom === undefined) {
    throw new CastoreError("INVALID", "--kernel: --paths-from says what to mount");
  }
  const names = await readPaths(options.pathsFrom);
  await using stores = await openMountStores(mountpoint, options);
  const { shared, nixDatabase } = stores;
  const { over, trace, prefetch } = options;
  const how = { over, trace, prefetch, readAheadKib: readAheadOf(options) };
  const image = async () => stores.image ?? (await buildKernelImage({ ...shared, names }));
  const mount = await mountKernel({ ...shared, mountpoint, image, ...how });
  await register(stores, options);
  endOnSignal(mount);
  await nixDatabase?.register(names);
  process.stdout.write(`castore mount serves ${mountpoint}\n`);
  await mount.ended;
  await nixDatabase?.close();
  await shared.roots.release();
}

/** Where each file is fetched as far as it is read, the system's own 128 KiB are enough. */
function readAheadOf({ trustedRootKey }: MountCommandOptions): number | undefined {
  return trustedRootKey === undefined ? READ_AHEAD_KIB : undefined;
}

async function readPaths(file: string): Promise<PathComponent[]> {
  const lines = (await readFile(file, "utf8")).split("\n").map((line) => line.trim());
  const paths = lines.filter((line) => line !== "").map((line) => parseAbsoluteStorePath(line));
  return paths.map((path) => pathComponentOfText(path));
}

/** What the local store holds. */
async function heldNames(roots: RootNodes): Promise<PathComponent[]> {
  const names: PathComponent[] = [];
  for await (const { name } of roots.list()) names.push(name);
  return names;
}

type MountStores = Awaited<ReturnType<typeof openMountStores>>;

/** Writes the registration of what --paths-from names, with what it refers to, where asked for. */
async function register(stores: MountStores, options: MountCommandOptions): Promise<void> {
  const { registration, pathsFrom } = options;
  if (registration === undefined) return;
  if (pathsFrom === undefined) {
    throw new CastoreError("INVALID", "--registration: --paths-from says of what");
  }
  const names = await stores.closure(await readPaths(pathsFrom));
  await writeRegistration(registration, names, stores.find);
}

/** What both ways of mounting need. */
async function openMountStores(mountpoint: string, options: MountCommandOptions) {
  const { contentsMaxSize: sizeMax, image: imageFile } = options;
  // What is fetched file by file goes elsewhere: into the store itself nothing may ever go.
  const isSpare = imageFile !== undefined && sizeMax !== undefined;
  const opened = await openCache({ ...options, unleasedMs: UNLEASED_MS, private: isSpare });
  const restMsMax = options.patient === true ? { restMsMax: PATIENT_REST_MS } : {};
  const stack = await openSubstituter(opened, { ...options, ...restMsMax }, logLine);
  const { store, pathInfos } = opened;
  const { substituter, trustedKeys } = stack;
  const log = logLine;
  const contents = await contentsOf(store, options);
  const lazyPaths = new LazyPaths({
    ...{ store, contents: contents.target, pathInfos, substituter, trustedKeys, log },
  });
  // A blob that leaves no room for others would be fetched once more, to be thrown away.
  const limits = sizeMax === undefined ? {} : { chunksMax: CHUNKS_MAX, joinBytesMax: sizeMax / 4 };
  const pin = `mount-${digestOf(Buffer.from(mountpoint)).slice(0, 32)}`;
  const storeRoots = createStoreRootNodes({
    ...{ store, pathInfos, substituter, lazyPaths, pin },
  });
  const keys = { trustedKeys, rootKeys: pathInfos.rootKeys() };
  const imaged =
    imageFile === undefined || options.pathsFrom === undefined
      ? undefined
      : await openImagedClosure(imageFile, await readPaths(options.pathsFrom), keys);
  const paths =
    imaged === undefined
      ? lazyPaths
      : new ImagedBlobs({
          ...{ paths: imaged.paths, contents: contents.target, substituter, lazyPaths },
          roots: storeRoots,
        });
  const nextTo = imaged && new ImageNeighbours(imaged.image);
  const blobs = new LazyBlobs({
    ...{ store: contents, paths, substituter, log },
    neighbours: (blob) => nextTo?.after(blob) ?? [],
    ...limits,
  });
  const find = async (storePath: StorePath) =>
    imaged?.find(storePath) ?? (await substituter.narInfo(storePathHash(storePath)));
  const nixDatabase =
    options.nixDb === undefined
      ? undefined
      : new NixDatabase({
          stateDir: resolve(options.nixDb),
          name: `castore-${pin}`,
          ...{ find, log },
        });
  const roots: StoreRootNodes = {
    ...storeRoots,
    async hold(names, callOptions) {
      await storeRoots.hold(names, callOptions);
      // Nobody who looks at a path waits for Nix's database.
      nixDatabase?.register(names).catch((error: unknown) => log(String(error)));
    },
  };
  const shared = {
    roots,
    directories: store.directories,
    blobs: options.patient === true ? patientBlobs(blobs, log) : blobs,
    content: contents.content,
    extraRoots: STORE_EXTRAS,
    timeoutMs: options.timeout * 1000,
    // Where room is short, the store and the kernel keep enough.
    cacheBytesMax: sizeMax === undefined ? undefined : BLOCKS_BYTES,
    log,
  };
  const close = async () => {
    await blobs.idle();
    await lazyPaths.prove();
    await stack[Symbol.asyncDispose]();
    await contents[Symbol.asyncDispose]();
    await opened[Symbol.asyncDispose]();
  };
  const closure = async (names: readonly PathComponent[]) =>
    imaged?.names ?? (await roots.closure(names));
  const image = imaged?.image;
  return { shared, nixDatabase, find, closure, image, [Symbol.asyncDispose]: close };
}

async function contentsOf(store: LocalStore, options: MountCommandOptions): Promise<Contents> {
  const { contents: path, contentsMaxSize: sizeMax } = options;
  if (sizeMax === undefined) return heldContents(store);
  return path === undefined
    ? recentContents(store, join(options.store ?? defaultStorePath(), CONTENTS), sizeMax)
    : await lastingContents(store, path, sizeMax);
}

/** Takes a mount away when this process is told to end. */
function endOnSignal(mount: { close(): Promise<void> }): void {
  // In the background nobody reads any more what is written there.
  process.stderr.on("error", () => {});
  const close = () => {
    mount.close().catch((error: unknown) => logLine(`unmount: ${String(error)}`));
  };
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) process.once(signal, close);
}

/** Starts this command again without --background; returns once that has mounted. */
async function runInBackground(): Promise<void> {
  const args = process.argv.slice(1).filter((arg) => arg !== "--background");
  const child = spawn(process.execPath, [...process.execArgv, ...args], {
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  // Whoever waits for the end of this command's output must not wait for the mount's.
  child.stderr.pipe(process.stderr, { end: false });
  const ready = once(child.stdout, "data").then(() => true);
  const ended = once(child, "close").then(() => false);
  if (!(await Promise.race([ready, ended]))) throw new CastoreError("UNAVAILABLE", "not mounted");
  child.stdout.destroy();
  child.stderr.destroy();
  child.unref();
}
