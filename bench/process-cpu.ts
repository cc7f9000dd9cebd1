import { readFileSync } from "node:fs";

const TICKS_PER_SECOND = 100;

/** CPU seconds so far, user and system, of a process and its living children. */
export function cpuSecondsOfTree(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  const own = (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
  const pids = children === "" ? [] : children.split(" ").map(Number);
  return pids.reduce((sum, child) => sum + cpuSecondsOfTree(child), own);
}
