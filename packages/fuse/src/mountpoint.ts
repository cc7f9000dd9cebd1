import { spawn, spawnSync } from "node:child_process";
import { closeSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, readdir, realpath, rmdir, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { CastoreError, systemCodeOf } from "@castore/castore";
import { loadSyscalls, MOUNT_FLAG, type Syscalls, UMOUNT_FLAG } from "./syscalls.ts";

/** The file system type, as /proc/mounts shows it. */
const FS_TYPE = "fuse.castore";
/** What /proc/mounts shows as mounted, of every kind of mount. */
export const MOUNT_SOURCE = "castore";
/** stat(1) and getattr of a mount whose server is gone. */
const DEAD_MOUNT = "ENOTCONN";

export interface MountpointOptions {
  /** Users other than the one who mounts may look. An ordinary user needs user_allow_other. */
  readonly allowOther: boolean;
  /** Mount although there is something at the mountpoint. */
  readonly over: boolean;
  /** Of a file read in order, in KiB, in place of the system's 128. Takes root, and sysfs. */
  readonly readAheadKib?: number | undefined;
}

/** A mounted FUSE file system. */
export interface FuseMount {
  /** Of /dev/fuse: its requests are to be answered. */
  readonly descriptor: number;
  /**
   * Unmounts and ends everything that waits, at once and without a failure, for a process that is
   * about to end: it could not while a thread waits for requests.
   */
  abandon(): void;
}

/**
 * Mounts a new FUSE file system at `mountpoint`, an absolute path. Rejects INVALID where that is
 * not an empty directory, unless `over`; UNSUPPORTED where this user cannot mount; UNAVAILABLE
 * where the system refuses.
 */
export async function mountFuse(
  mountpoint: string,
  { allowOther, over, readAheadKib }: MountpointOptions,
): Promise<FuseMount> {
  await checkMountpoint(mountpoint, over);
  const syscalls = await loadSyscalls();
  if (isRoot()) {
    const descriptor = await mountAsRoot(mountpoint, allowOther, syscalls);
    if (readAheadKib !== undefined) setReadAhead(mountpoint, readAheadKib);
    return { descriptor, abandon: () => abandonAsRoot(mountpoint, syscalls) };
  }
  if (syscalls === undefined) {
    throw new CastoreError("UNSUPPORTED", `mount ${mountpoint}: only root can without koffi`);
  }
  const descriptor = await mountAsUser(mountpoint, { allowOther, over }, syscalls);
  return { descriptor, abandon: () => abandonAsUser(mountpoint) };
}

export interface UnmountOptions {
  /** Take it out of the tree although it is in use; who uses it may finish. */
  readonly lazy?: boolean | undefined;
  /**
   * End everything that waits for it, with an error. For users other than root that takes
   * /sys/fs/fuse/connections; where that is not mounted, this is no more than `lazy`.
   */
  readonly force?: boolean | undefined;
}

/**
 * Unmounts what `mountFuse` mounted last at `mountpoint`, whether its server lives or not. Rejects
 * UNAVAILABLE where it is in use or nothing is mounted there.
 */
export async function unmountFuse(
  mountpoint: string,
  { lazy = false, force = false }: UnmountOptions = {},
): Promise<void> {
  if (!isRoot()) {
    if (force) abortConnection(mountpoint);
    await run("fusermount3", ["-u", ...(lazy || force ? ["-z"] : []), "--", mountpoint]);
    return;
  }
  const syscalls = await loadSyscalls();
  if (syscalls === undefined) {
    const flags = [...(lazy ? ["-l"] : []), ...(force ? ["-f"] : [])];
    await run("umount", ["-i", ...flags, "--", mountpoint]);
    return;
  }
  const flags = (lazy ? UMOUNT_FLAG.DETACH : 0) | (force ? UMOUNT_FLAG.FORCE : 0);
  syscalls.umount(mountpoint, flags);
}

function isRoot(): boolean {
  return process.geteuid?.() === 0;
}

function abandonAsRoot(mountpoint: string, syscalls: Syscalls | undefined): void {
  if (syscalls === undefined) {
    spawnSync("umount", ["-i", "-l", "-f", "--", mountpoint], { stdio: "ignore" });
    return;
  }
  try {
    syscalls.umount(mountpoint, UMOUNT_FLAG.FORCE | UMOUNT_FLAG.DETACH);
  } catch {
    // Unmounted by someone else: nothing is left to do.
  }
}

function abandonAsUser(mountpoint: string): void {
  abortConnection(mountpoint);
  spawnSync("fusermount3", ["-u", "-z", "--", mountpoint], { stdio: "ignore" });
}

/** Ends all requests, and the connection, through fusectl; does nothing where that is not there. */
function abortConnection(mountpoint: string): void {
  try {
    const minor = deviceAt(mountpoint)?.split(":")[1];
    if (minor !== undefined) writeFileSync(`/sys/fs/fuse/connections/${minor}/abort`, "1");
  } catch {
    // fusectl is not mounted, or the connection is gone: its users end when they do.
  }
}

function setReadAhead(mountpoint: string, kib: number): void {
  try {
    const device = deviceAt(mountpoint);
    if (device !== undefined) writeFileSync(`/sys/class/bdi/${device}/read_ahead_kb`, `${kib}`);
  } catch {
    // sysfs is not there or read-only: reads in order take more requests.
  }
}

/**
 * Ends the FUSE connection of `device`, and all who wait for it, wherever copies of its mount are
 * left. For root; fusectl need not be mounted.
 */
export async function abortDevice(device: string, syscalls: Syscalls): Promise<void> {
  const at = await mkdtemp(join(tmpdir(), "castore-fusectl-"));
  try {
    syscalls.mount({ source: "none", target: at, type: "fusectl", flags: 0, data: "" });
    try {
      writeFileSync(`${at}/${device.split(":")[1]}/abort`, "1");
    } finally {
      syscalls.umount(at, UMOUNT_FLAG.DETACH);
    }
  } finally {
    await rmdir(at);
  }
}

/** "0:45" of what castore mounted last there by FUSE. */
export function deviceAt(mountpoint: string): string | undefined {
  return mountsAt(mountpoint).find(({ type }) => type === FS_TYPE)?.device;
}

/** Whether what is mounted at `mountpoint`, an absolute path, is a castore mount of any kind. */
export function isCastoreMount(mountpoint: string): boolean {
  return mountsAt(mountpoint)[0]?.source === MOUNT_SOURCE;
}

interface Mounted {
  readonly device: string;
  readonly type: string;
  readonly source: string;
}

/** The last one first. From the kernel's list: to look at a mount is to wait for its server. */
function mountsAt(mountpoint: string): Mounted[] {
  const lines = readFileSync("/proc/self/mountinfo", "utf8").trimEnd().split("\n").reverse();
  return lines.flatMap((line) => {
    const [where = "", what = ""] = line.split(" - ");
    const [, , device = "", , place = ""] = where.split(" ");
    const path = place.replace(/\\([0-7]{3})/g, (_, octal) =>
      String.fromCharCode(Number.parseInt(octal, 8)),
    );
    const [type = "", source = ""] = what.split(" ");
    return path === mountpoint ? [{ device, type, source }] : [];
  });
}

/** Rejects INVALID where nothing should be mounted, unless `over`. */
export async function checkMountpoint(mountpoint: string, over: boolean): Promise<void> {
  let entries: string[];
  try {
    if (!(await stat(mountpoint)).isDirectory()) {
      throw new CastoreError("INVALID", `mountpoint ${mountpoint}: not a directory`);
    }
    entries = over ? [] : await readdir(mountpoint);
  } catch (cause) {
    if (cause instanceof CastoreError) throw cause;
    const code = systemCodeOf(cause) ?? String(cause);
    const hint = code === DEAD_MOUNT ? ": a mount whose server is gone; unmount it first" : "";
    throw new CastoreError("INVALID", `mountpoint ${mountpoint}: ${code}${hint}`, { cause });
  }
  if (over) return;
  const place = `${await realpath(mountpoint)}/`.replace("//", "/");
  for (const needed of [process.execPath, fileURLToPath(import.meta.url)]) {
    if ((await realpath(needed)).startsWith(place)) {
      throw new CastoreError("INVALID", `mountpoint ${mountpoint}: holds ${needed}, which runs`);
    }
  }
  if (entries.length > 0) {
    throw new CastoreError("INVALID", `mountpoint ${mountpoint}: not empty`);
  }
}

async function mountAsRoot(
  mountpoint: string,
  allowOther: boolean,
  syscalls: Syscalls | undefined,
): Promise<number> {
  const descriptor = openSync("/dev/fuse", "r+");
  try {
    const data = [
      "rootmode=40000",
      "user_id=0",
      "group_id=0",
      "default_permissions",
      ...(allowOther ? ["allow_other"] : []),
    ].join();
    if (syscalls !== undefined) {
      const { RDONLY, NOSUID, NODEV, NOATIME } = MOUNT_FLAG;
      syscalls.mount({
        source: MOUNT_SOURCE,
        target: mountpoint,
        type: FS_TYPE,
        flags: RDONLY | NOSUID | NODEV | NOATIME,
        data: `fd=${descriptor},${data}`,
      });
      return descriptor;
    }
    // The child inherits the descriptor as its number 3.
    const options = `ro,nosuid,nodev,noatime,fd=3,${data}`;
    const args = ["-n", "-i", "-t", FS_TYPE, "-o", options, "--", MOUNT_SOURCE, mountpoint];
    await run("mount", args, { inherit: descriptor });
    return descriptor;
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
}

async function mountAsUser(
  mountpoint: string,
  { allowOther, over }: MountpointOptions,
  syscalls: Syscalls,
): Promise<number> {
  const options = [
    `ro,nosuid,nodev,noatime,default_permissions,fsname=${MOUNT_SOURCE},subtype=castore`,
    ...(allowOther ? ["allow_other"] : []),
    ...(over ? ["nonempty"] : []),
  ].join();
  const [theirs, ours] = syscalls.socketPair();
  try {
    // fusermount3 sends the descriptor of /dev/fuse over its descriptor 3, then exits.
    const args = ["-o", options, "--", mountpoint];
    await run("fusermount3", args, { inherit: theirs, env: { _FUSE_COMMFD: "3" } });
    const descriptor = syscalls.receiveDescriptor(ours);
    if (descriptor !== undefined) return descriptor;
    throw new CastoreError("UNAVAILABLE", `mount ${mountpoint}: fusermount3 sent no descriptor`);
  } finally {
    closeSync(theirs);
    closeSync(ours);
  }
}

interface RunOptions {
  /** A descriptor that the program gets as its number 3. */
  readonly inherit?: number;
  readonly env?: Readonly<Record<string, string>>;
}

function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      stdio: ["ignore", "ignore", "pipe", options.inherit ?? "ignore"],
      env: { ...process.env, ...options.env },
    });
    let stderr = "";
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      stderr = `${stderr}${text}`.slice(-4096);
    });
    child.on("error", (cause) => {
      reject(new CastoreError("UNSUPPORTED", `${program}: cannot be run`, { cause }));
    });
    child.on("close", (status, signal) => {
      if (status === 0) resolve();
      else {
        const reason = stderr.trim() || `ended with ${signal ?? status}`;
        reject(new CastoreError("UNAVAILABLE", `${program} ${args.at(-1)}: ${reason}`));
      }
    });
  });
}
