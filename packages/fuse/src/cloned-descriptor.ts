import { openSync } from "node:fs";
import { release } from "node:os";
import type { InheritedMount } from "./supervisor.ts";
import { loadSyscalls } from "./syscalls.ts";

/** _IOR(229, 0, uint32_t) */
const FUSE_DEV_IOC_CLONE = 0x8004e500;
/** The first Linux that sends requests again when a successor asks for them. */
const RESEND_SINCE = [6, 9] as const;

/**
 * The descriptor through which a server reads requests. Before Linux 6.9 what a dying server had
 * read would never be answered: there it is one of the server's own, and the kernel ends what was
 * read through it when the server dies.
 */
export async function servedDescriptor({ descriptor, clone }: InheritedMount): Promise<number> {
  if (!(clone ?? !resends(release()))) return descriptor;
  const syscalls = await loadSyscalls();
  if (syscalls === undefined) return descriptor;
  const own = openSync("/dev/fuse", "r+");
  const argument = Buffer.alloc(4);
  argument.writeUInt32LE(descriptor);
  syscalls.ioctl(own, FUSE_DEV_IOC_CLONE, argument);
  return own;
}

/** Whether a kernel of this release, as in "6.18.44-amd64", can send requests again. */
export function resends(kernel: string): boolean {
  const [major = 0, minor = 0] = kernel.split(".").map((part) => Number.parseInt(part, 10));
  const [wantedMajor, wantedMinor] = RESEND_SINCE;
  return major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
}
