import { getPriority } from "node:os";
import { CastoreError, loadKoffi } from "@castore/castore";

/** System calls that Node does not have. Each throws UNAVAILABLE with the errno's name. */
export interface Syscalls {
  mount(call: MountCall): void;
  /** umount2(2). */
  umount(path: string, flags: number): void;
  /** A connected pair of stream sockets, as descriptors that child processes may inherit. */
  socketPair(): [number, number];
  /** The descriptor that arrived over a socket; undefined where there is none yet. */
  receiveDescriptor(socket: number): number | undefined;
  /** ioctl(2) with a structure in `argument`; the call's result. */
  ioctl(descriptor: number, request: number, argument: Buffer): number;
  /**
   * Has the calling thread run for so long at a time, and be run the sooner once it is woken, also
   * where others are at work (Linux 6.12; before that it means nothing). Its share stays the same.
   */
  setSlice(nanoseconds: number): void;
  /** The CPUs on which the calling thread may run: a bit for each. */
  cpus(): Buffer;
  setCpus(cpus: Buffer): void;
}

export interface MountCall {
  readonly source: string;
  readonly target: string;
  readonly type: string;
  readonly flags: number;
  readonly data: string;
}

export const MOUNT_FLAG = { RDONLY: 1, NOSUID: 2, NODEV: 4, NOATIME: 1024 } as const;
export const UMOUNT_FLAG = { FORCE: 1, DETACH: 2 } as const;

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const MSG_DONTWAIT = 0x40;
/** cmsghdr of SCM_RIGHTS with one descriptor: length 20, level SOL_SOCKET, type SCM_RIGHTS. */
const CONTROL_BYTES = 24;
const CONTROL_LENGTH = 20n;
/** sched_setattr(2), for which no C library before 2.41 has a function. */
const SCHED_SETATTR = process.arch === "x64" ? 314 : 274;
const SCHED_ATTR_BYTES = 48;
const SCHED_FLAG_KEEP_POLICY = 8n;
/** Of more, the calls about CPUs fail. */
const CPUS_MAX = 1024;

/**
 * The calls, through koffi; undefined where koffi has no binary for this machine. Root then still
 * mounts with mount(8).
 */
export async function loadSyscalls(): Promise<Syscalls | undefined> {
  const koffi = await loadKoffi();
  if (koffi === undefined) return undefined;
  const libc = koffi.load(null);
  const iovec = koffi.struct({ base: "void *", length: "size_t" });
  const message = koffi.struct({
    name: "void *",
    nameLength: "uint32_t",
    vectors: koffi.pointer(iovec),
    vectorCount: "size_t",
    control: "void *",
    controlLength: "size_t",
    flags: "int",
  });
  const mount = libc.func("mount", "int", ["str", "str", "str", "unsigned long", "str"]);
  const umount2 = libc.func("umount2", "int", ["str", "int"]);
  const socketpair = libc.func("socketpair", "int", [
    "int",
    "int",
    "int",
    koffi.out(koffi.pointer("int")),
  ]);
  const recvmsg = libc.func("recvmsg", "intptr_t", [
    "int",
    koffi.inout(koffi.pointer(message)),
    "int",
  ]);
  const ioctl = libc.func("ioctl", "int", ["int", "unsigned long", "void *"]);

  const { errno: errnoNumbers } = koffi.os;
  const lastErrno = koffi.errno;

  function checked(name: string, call: LibraryFunction, ...args: unknown[]): number {
    const result: unknown = call(...args);
    if (typeof result === "number" && result >= 0) return result;
    const errno = lastErrno();
    throw new CastoreError("UNAVAILABLE", `${name}: ${errnoName(errnoNumbers, errno)}`, {
      cause: { errno },
    });
  }

  return {
    mount({ source, target, type, flags, data }) {
      checked(`mount ${target}`, mount, source, target, type, flags, data);
    },
    umount(path, flags) {
      checked(`unmount ${path}`, umount2, path, flags);
    },
    socketPair() {
      const pair: [number, number] = [-1, -1];
      checked("socketpair", socketpair, AF_UNIX, SOCK_STREAM, 0, pair);
      return pair;
    },
    receiveDescriptor(socket) {
      const control = Buffer.alloc(CONTROL_BYTES);
      const received = {
        name: null,
        nameLength: 0,
        vectors: [{ base: Buffer.alloc(1), length: 1 }],
        vectorCount: 1,
        control,
        controlLength: CONTROL_BYTES,
        flags: 0,
      };
      const length: unknown = recvmsg(socket, received, MSG_DONTWAIT);
      if (typeof length !== "number" || length <= 0) return undefined;
      return control.readBigUInt64LE(0) === CONTROL_LENGTH ? control.readInt32LE(16) : undefined;
    },
    ioctl(descriptor, request, argument) {
      return checked("ioctl", ioctl, descriptor, request, argument);
    },
    ...schedulingCalls(libc, checked),
  };
}

type LibraryFunction = (...args: unknown[]) => unknown;

/** Those about when and where the calling thread runs. */
function schedulingCalls(
  libc: { func(name: string, result: string, parameters: string[]): LibraryFunction },
  checked: (name: string, call: LibraryFunction, ...args: unknown[]) => number,
): Pick<Syscalls, "setSlice" | "cpus" | "setCpus"> {
  const syscall = libc.func("syscall", "long", ["long", "int", "void *", "unsigned int"]);
  const getaffinity = libc.func("sched_getaffinity", "int", ["int", "size_t", "void *"]);
  const setaffinity = libc.func("sched_setaffinity", "int", ["int", "size_t", "void *"]);
  return {
    setSlice(nanoseconds) {
      checked("sched_setattr", syscall, SCHED_SETATTR, 0, encodeSlice(nanoseconds), 0);
    },
    cpus() {
      const cpus = Buffer.alloc(CPUS_MAX / 8);
      checked("sched_getaffinity", getaffinity, 0, cpus.length, cpus);
      return cpus;
    },
    setCpus(cpus) {
      checked("sched_setaffinity", setaffinity, 0, cpus.length, cpus);
    },
  };
}

/** struct sched_attr of the calling thread with another slice. */
function encodeSlice(nanoseconds: number): Buffer {
  const attributes = Buffer.alloc(SCHED_ATTR_BYTES);
  attributes.writeUInt32LE(SCHED_ATTR_BYTES, 0);
  attributes.writeBigUInt64LE(SCHED_FLAG_KEEP_POLICY, 8);
  attributes.writeInt32LE(getPriority(), 16); // would be set to 0 else
  attributes.writeBigUInt64LE(BigInt(nanoseconds), 24);
  return attributes;
}

function errnoName(names: Readonly<Record<string, number>>, errno: number): string {
  for (const [name, value] of Object.entries(names)) if (value === errno) return name;
  return `errno ${errno}`;
}
