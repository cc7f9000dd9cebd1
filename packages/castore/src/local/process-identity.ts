import { readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";

/** What tells one process from all others, also from a later one of the same number. */
export interface ProcessIdentity {
  readonly boot: string;
  readonly pidNamespace: string;
  readonly pid: number;
  /** Clock ticks from boot to the process's start. */
  readonly start: number;
}

export function ownIdentity(): ProcessIdentity {
  return {
    boot: bootId(),
    pidNamespace: pidNamespace(),
    pid: process.pid,
    start: startOf("self") ?? 0,
  };
}

/** Whether `identity` still runs; undefined where that cannot be seen from this pid namespace. */
export function isAlive(identity: ProcessIdentity): boolean | undefined {
  if (identity.boot !== bootId()) return false;
  if (identity.pidNamespace !== pidNamespace()) return undefined;
  const start = startOf(String(identity.pid));
  return start !== undefined && start === identity.start;
}

/** Changes with each boot. */
export function bootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
}

function pidNamespace(): string {
  return readlinkSync("/proc/self/ns/pid");
}

/** Field 22 of /proc/PID/stat; the name before it may hold spaces and parentheses. */
function startOf(pid: string): number | undefined {
  let stat: string;
  try {
    stat = readFileSync(join("/proc", pid, "stat"), "latin1");
  } catch {
    return undefined;
  }
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  // A zombie holds nothing any more.
  if (fields[0] === "Z" || fields[0] === "X") return undefined;
  return Number(fields[19]);
}
