import { spawn } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout } from "node:timers/promises";
import {
  CastoreError,
  createStaticRootNodes,
  type Digest,
  type Directory,
  directoryOf,
  EMPTY_DIGEST,
  type FileNode,
  type PathComponent,
  pathComponentOfText,
  type RootNode,
  type StaticRootNodes,
} from "@castore/castore";
import { buildErofsImage } from "./erofs-image.ts";
import { type Mount, type MountOptions, mountStore } from "./mount.ts";
import { abortDevice, checkMountpoint, deviceAt, unmountFuse } from "./mountpoint.ts";
import { loadSyscalls, MOUNT_FLAG } from "./syscalls.ts";

/** Files up to this size lie in the image if they are at hand; a local store keeps them inline. */
const INLINE_BYTES_MAX = 4096;

export interface KernelMountOptions
  extends Pick<
    MountOptions,
    | "mountpoint"
    | "roots"
    | "directories"
    | "blobs"
    | "content"
    | "extraRoots"
    | "over"
    | "timeoutMs"
    | "cacheBytesMax"
    | "trace"
    | "prefetch"
    | "readAheadKib"
    | "log"
  > {
  /** What to mount, with all that it needs. */
  readonly names: readonly PathComponent[];
}

/**
 * Mounts a fixed set of names with the kernel itself as the file system: an EROFS image has all
 * metadata and the small files that are at hand, an overlay takes the other contents from a FUSE
 * directory of digests, which loads them when they are read. stat and readdir send no request.
 * Needs root, Linux 6.12 and koffi, and directories of all names at once. Another set goes over it
 * with `over`; programs that run from this one are not disturbed.
 */
export async function mountKernel(options: KernelMountOptions): Promise<Mount> {
  const mountpoint = resolve(options.mountpoint);
  await checkMountpoint(mountpoint, options.over ?? false);
  const syscalls = await loadSyscalls();
  if (syscalls === undefined || process.geteuid?.() !== 0) {
    throw new CastoreError("UNSUPPORTED", `mount ${mountpoint}: the kernel way takes root, koffi`);
  }
  const objects = createStaticRootNodes();
  const image = await buildImage(options, objects);
  const work = await mkdtemp(join(tmpdir(), "castore-kernel-"));
  const at = (name: string) => join(work, name);
  await mkdir(at("objects"));
  await mkdir(at("erofs"));
  const store = await mountStore({
    ...options,
    ...OBJECTS,
    mountpoint: at("objects"),
    roots: objects,
  });
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

/** Objects are looked up by digest; nobody else sees them. */
const OBJECTS = { extraRoots: [], listRoot: false, over: false } as const;

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

/** The image of all names, while `objects` learns of the files that lie outside it. */
async function buildImage(options: KernelMountOptions, objects: StaticRootNodes): Promise<Buffer> {
  const { roots, directories, extraRoots = [] } = options;
  const names = await roots.closure(options.names);
  await roots.hold(names);
  const found: (readonly [PathComponent, RootNode])[] = [];
  for (const [name, node] of extraRoots) found.push([name, { node, lazy: false, final: true }]);
  for (const name of names) {
    const root = await roots.get(name);
    if (root === undefined) throw new CastoreError("INCOMPLETE", `root ${name}: absent`);
    found.push([name, root]);
  }
  const isLazy = found.some(([, root]) => root.lazy);
  const entries = found.map(([name, { node }]) => [name, node] as const);
  return buildErofsImage(entries, {
    async directory(digest): Promise<Directory> {
      if (digest === EMPTY_DIGEST) return directoryOf([]);
      const directory = await directories.get(digest);
      if (directory !== undefined) return directory;
      throw new CastoreError("INCOMPLETE", `directory ${digest}: absent`);
    },
    async inline(file) {
      if (!isLazy && file.size <= INLINE_BYTES_MAX) return readBlob(file, options);
      objects.set(pathComponentOfText(file.digest), { node: { ...file, executable: false } });
      return undefined;
    },
    objectPath: (digest: Digest) => `/${digest}`,
  });
}

async function readBlob(file: FileNode, { blobs }: KernelMountOptions): Promise<Uint8Array> {
  const reader = await blobs.open(file.digest);
  if (reader === undefined) throw new CastoreError("INCOMPLETE", `blob ${file.digest}: absent`);
  try {
    const pieces: Uint8Array[] = [];
    for await (const piece of reader.stream()) pieces.push(piece);
    return Buffer.concat(pieces);
  } finally {
    await reader.close();
  }
}

/** In a process of its own: the kernel looks at layers that this process serves. */
function mountOverlay(layers: string, mountpoint: string): Promise<void> {
  const options = `ro,nosuid,nodev,noatime,metacopy=on,redirect_dir=on,lowerdir=${layers}`;
  const args = ["-n", "-i", "-t", "overlay", "-o", options, "--", "castore", mountpoint];
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
