import { spawn } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout } from "node:timers/promises";
import {
  CastoreError,
  createMemoryDirectoryService,
  createStaticRootNodes,
  type PathComponent,
} from "@castore/castore";
import { objectOf } from "./kernel-image.ts";
import { type Mount, type MountOptions, mountStore } from "./mount.ts";
import { abortDevice, checkMountpoint, deviceAt, MOUNT_SOURCE, unmountFuse } from "./mountpoint.ts";
import { loadSyscalls, MOUNT_FLAG } from "./syscalls.ts";

export interface KernelMountOptions
  extends Pick<
    MountOptions,
    | "mountpoint"
    | "blobs"
    | "content"
    | "over"
    | "timeoutMs"
    | "cacheBytesMax"
    | "trace"
    | "prefetch"
    | "readAheadKib"
    | "log"
  > {
  /** Makes what buildKernelImage makes, which is believed; called once it can be mounted. */
  readonly image: () => Promise<Uint8Array>;
}

/**
 * Mounts a fixed set of names with the kernel itself as the file system: an EROFS image has all
 * metadata and the small files that are at hand, an overlay takes the other contents from a FUSE
 * directory of digests, which loads them when they are read. stat and readdir send no request.
 * Needs root, Linux 6.12 and koffi. Another set goes over it with `over`; programs that run from
 * this one are not disturbed.
 */
export async function mountKernel(options: KernelMountOptions): Promise<Mount> {
  const mountpoint = resolve(options.mountpoint);
  await checkMountpoint(mountpoint, options.over ?? false);
  const syscalls = await loadSyscalls();
  if (syscalls === undefined || process.geteuid?.() !== 0) {
    throw new CastoreError("UNSUPPORTED", `mount ${mountpoint}: the kernel way takes root, koffi`);
  }
  const image = await options.image();
  const work = await mkdtemp(join(tmpdir(), "castore-kernel-"));
  const at = (name: string) => join(work, name);
  await mkdir(at("objects"));
  await mkdir(at("erofs"));
  const store = await mountStore({ ...options, ...OBJECTS, mountpoint: at("objects") });
  const device = deviceAt(at("objects"));
  const abort = async () => {
    if (device !== undefined) await abortDevice(device, syscalls);
  };
  try {
    await writeFile(at("image"), image, { mode: 0o400 });
    const source = { source: at("image"), target: at("erofs"), type: "erofs", data: "" };
    syscalls.mount({ ...source, flags: MOUNT_FLAG.RDONLY | MOUNT_FLAG.NOSUID | MOUNT_FLAG.NODEV });
    try {
      await mountOverlay(`${at("erofs")}::${at("objects")}`, mountpoint);
    } finally {
      await unmountFuse(at("erofs"), { lazy: true });
    }
    // The overlay keeps its layers: they end with it.
    await unmountFuse(at("objects"), { lazy: true });
  } catch (error) {
    await store.close();
    throw error;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return mountOf(mountpoint, { store, abort, log: options.log });
}

/** For so long a mount that is taken away serves those who still use it. */
const USERS_MS = 2_000;

/** Objects are looked up by their names, which say all; nobody but the overlay sees them. */
const OBJECTS = {
  roots: { ...createStaticRootNodes(), get: async (name: PathComponent) => objectOf(name) },
  directories: createMemoryDirectoryService(),
  extraRoots: [],
  listRoot: false,
  over: false,
  // Their order says nothing; a thread that looks for one takes half a second of emulated CPU.
  foresee: false,
};

interface KernelMountParts extends Pick<MountOptions, "log"> {
  readonly store: Mount;
  /** Ends the store for all who use it. */
  readonly abort: () => Promise<void>;
}

function mountOf(mountpoint: string, { store, abort, log = () => {} }: KernelMountParts): Mount {
  let isOver = false;
  const ended = store.ended.finally(() => {
    isOver = true;
  });
  ended.catch(() => {}); // for whoever asks
  const close = async () => {
    if (!isOver) await unmountFuse(mountpoint, { lazy: true });
    await Promise.race([ended, setTimeout(USERS_MS, undefined, { ref: false })]);
    if (!isOver) {
      log(`${mountpoint}: who still uses it, maybe in another mount namespace, gets errors now`);
      await abort();
    }
    await ended;
  };
  return {
    mountpoint,
    ended,
    requests: (kind) => store.requests(kind),
    async unmount(how) {
      await unmountFuse(mountpoint, how);
      await ended;
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}

/** In a process of its own: the kernel looks at layers that this process serves. */
function mountOverlay(layers: string, mountpoint: string): Promise<void> {
  const options = `ro,nosuid,nodev,noatime,metacopy=on,redirect_dir=on,lowerdir=${layers}`;
  const args = ["-n", "-i", "-t", "overlay", "-o", options, "--", MOUNT_SOURCE, mountpoint];
  return new Promise((done, fail) => {
    const child = spawn("mount", args, { stdio: ["ignore", "ignore", "pipe"] });
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    child.once("error", (cause) => {
      fail(new CastoreError("UNSUPPORTED", "mount: cannot be run", { cause }));
    });
    child.once("close", (status) => {
      if (status === 0) done();
      else fail(new CastoreError("UNAVAILABLE", `mount ${mountpoint}: ${stderr.trim() || status}`));
    });
  });
}
