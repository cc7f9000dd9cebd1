import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type BlobService,
  createMemoryBlobService,
  createMemoryDirectoryService,
  createStaticRootNodes,
  type DirectoryService,
  type StaticRootNodes,
} from "@castore/castore";
import { type Mount, type MountOptions, mountStore } from "../src/mount.ts";

export interface MemoryStore {
  readonly blobs: BlobService;
  readonly directories: DirectoryService;
  readonly roots: StaticRootNodes;
}

export function createMemoryStore(): MemoryStore {
  return {
    blobs: createMemoryBlobService(),
    directories: createMemoryDirectoryService(),
    roots: createStaticRootNodes(),
  };
}

export interface RunResult {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly uid?: number;
}

/**
 * Runs a shell script in a process of its own: a program that looks at a mount must never be this
 * one, whose event loop answers it. Standard output is given in latin1: a character a byte.
 */
export function run(script: string, { uid }: RunOptions = {}): Promise<RunResult> {
  return new Promise((resolve, reject) => {
    const child = spawn("bash", ["-c", script], {
      // Never a directory of the mount: this process would wait for the chdir.
      cwd: "/",
      stdio: ["ignore", "pipe", "pipe"],
      ...(uid === undefined ? {} : { uid, gid: uid }),
      env: { ...process.env, LC_ALL: "C" },
    });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on("data", (bytes: Buffer) => out.push(bytes));
    child.stderr.on("data", (bytes: Buffer) => err.push(bytes));
    child.on("error", reject);
    child.on("close", (status, signal) => {
      const stdout = Buffer.concat(out).toString("latin1");
      resolve({ status, signal, stdout, stderr: Buffer.concat(err).toString("latin1") });
    });
  });
}

/** As `run`; the output of a script that must succeed. */
export async function output(script: string, options?: RunOptions): Promise<string> {
  const { status, stdout, stderr } = await run(script, options);
  if (status !== 0) throw new Error(`${script}: ${status}\n${stdout}\n${stderr}`);
  return stdout;
}

export interface MountedStore extends MemoryStore, AsyncDisposable {
  readonly mount: Mount;
  /** Of a temporary directory; the mountpoint is its `mnt`. */
  readonly base: string;
  readonly log: readonly string[];
}

/** Mounts a store at `<base>/mnt` of a new temporary directory, which goes with the mount. */
export async function mountTemporary(
  store: MemoryStore,
  options: Partial<MountOptions> = {},
): Promise<MountedStore> {
  const base = await temporaryDirectory();
  const mountpoint = join(base, "mnt");
  await output(`mkdir -p '${mountpoint}'`);
  const log: string[] = [];
  const mount = await mountStore({
    mountpoint,
    ...store,
    log: (line) => log.push(line),
    ...options,
  });
  return {
    ...store,
    base,
    mount,
    log,
    async [Symbol.asyncDispose]() {
      await mount.close();
      await rm(base, { recursive: true, force: true });
    },
  };
}

export function temporaryDirectory(): Promise<string> {
  return mkdtemp(join(tmpdir(), "castore-fuse-"));
}
