import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { repositoryRoot } from "../test/support/repository-root.ts";
import type { Measures } from "./benchmark.ts";

const execute = promisify(execFile);
const PACKAGES = ["bindfs", "gcc", "libc6-dev", "libfuse2", "squashfs-tools", "squashfuse"];
const FUSE_NATIVE = "fuse-native@2.2.6";

/** A tree to look at, and what it cost to serve so far, as far as that is known. */
export interface ShownTree extends AsyncDisposable {
  readonly at: string;
  measures(): Promise<Measures>;
}

/** One way to show the same tree. */
export interface Peer {
  readonly name: string;
  show(): Promise<ShownTree>;
}

/** Installs what Debian has, unless it is there. */
export async function installPeers(): Promise<void> {
  const isThere = await execute("dpkg", ["-s", ...PACKAGES]).then(
    () => true,
    () => false,
  );
  if (isThere) return;
  console.error(`installing ${PACKAGES.join(" ")}`);
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  await execute("apt-get", ["update", "-q"], { env });
  await execute("apt-get", ["install", "-q", "-y", "--no-install-recommends", ...PACKAGES], {
    env,
  });
}

/** The path of fuse-native, which no package of this repository needs. */
async function installFuseNative(): Promise<string> {
  const prefix = join(repositoryRoot(), ".cache/bench-peers");
  const path = join(prefix, "node_modules/fuse-native");
  if (!existsSync(path)) {
    await mkdir(prefix, { recursive: true });
    await execute("npm", ["install", "--prefix", prefix, "--no-audit", FUSE_NATIVE]);
  }
  return path;
}

/** Compiles a C program of bench/peers/ into `directory`. */
export async function compilePeer(name: string, directory: string): Promise<string> {
  const output = join(directory, name);
  await execute("gcc", ["-O2", "-Wall", "-Werror", "-o", output, peerSource(`${name}.c`)]);
  return output;
}

export const nativePeer = (at: string): Peer => ({
  name: "native",
  show: async () => ({ at, measures: async () => ({}), async [Symbol.asyncDispose]() {} }),
});

export const squashfusePeer = (image: string, at: string): Peer => ({
  name: "squashfuse",
  show: () => showBy(["squashfuse", "-f", image, at], { at, isReady: isMounted }),
});

export const bindfsPeer = (directory: string, at: string): Peer => ({
  name: "bindfs",
  show: () => showBy(["bindfs", "-f", "-r", directory, at], { at, isReady: isMounted }),
});

/** Its binary is for x64 only. */
export const fuseNativePeer = (directory: string, at: string): Peer => ({
  name: "fuse-native",
  show: async () => {
    const args = [peerSource("fuse-native.cjs"), await installFuseNative(), directory, at];
    return await showBy([process.execPath, ...args], { at, isReady: saysReady });
  },
});

export const lookupServerPeer = (program: string, at: string): Peer => ({
  name: "C loop",
  show: () => showBy([program, at], { at, isReady: saysReady }),
});

/** castore's mount of a store; what is shown is `below` the mountpoint. */
export function castorePeer(
  name: string,
  options: { readonly store: string; readonly below: string; readonly at: string } & {
    readonly passthrough?: boolean;
    readonly kernel?: readonly string[];
  },
): Peer {
  const { store, below, at: mountpoint, passthrough = false, kernel } = options;
  const program = fileURLToPath(new URL("mount-program.js", import.meta.url));
  return {
    name,
    async show() {
      const settings = JSON.stringify({ store, mountpoint, passthrough, kernel });
      await mkdir(mountpoint, { recursive: true });
      const child = spawn(process.execPath, [program, settings], {
        stdio: ["pipe", "pipe", "inherit"],
      });
      const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
      if ((await lines.next()).value !== "ready") throw new Error(`${name}: not mounted`);
      return {
        at: join(mountpoint, below),
        async measures() {
          child.stdin.write("\n");
          return JSON.parse((await lines.next()).value ?? "{}");
        },
        async [Symbol.asyncDispose]() {
          child.stdin.end();
          await once(child, "exit");
        },
      };
    },
  };
}

type IsReady = (child: ChildProcess, at: string) => Promise<void>;

async function showBy(
  [program = "", ...args]: readonly string[],
  { at, isReady }: { readonly at: string; readonly isReady: IsReady },
): Promise<ShownTree> {
  await mkdir(at, { recursive: true });
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
  const gone = once(child, "exit").then(() => Promise.reject(new Error(`${program}: ended`)));
  gone.catch(() => {});
  await Promise.race([isReady(child, at), gone]);
  return {
    at,
    measures: async () => ({}),
    async [Symbol.asyncDispose]() {
      await execute("umount", [at]);
      // Not all of them end by themselves then.
      child.kill("SIGTERM");
      await gone.catch(() => {});
      await rm(at, { recursive: true });
    },
  };
}

async function saysReady(child: ChildProcess): Promise<void> {
  if (child.stdout !== null) await once(child.stdout, "data");
}

async function isMounted(_child: ChildProcess, at: string): Promise<void> {
  const script = 'until grep -q " $0 " /proc/mounts; do sleep 0.02; done';
  await execute("sh", ["-c", script, at]);
}

/** Sources are not compiled, so they lie where the repository has them. */
function peerSource(name: string): string {
  return join(repositoryRoot(), "bench/peers", name);
}
