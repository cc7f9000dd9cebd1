import { spawn } from "node:child_process";
import { once } from "node:events";
import { expect, it } from "vitest";
import { NearClient } from "../src/near-client.ts";
import { loadSyscalls } from "../src/syscalls.ts";

async function syscallsOfThisMachine() {
  const syscalls = await loadSyscalls();
  if (syscalls === undefined) throw new Error("koffi is not installed");
  return syscalls;
}

/** The last of a thread's CPUs, by number. */
function lastOf(cpus: Buffer): number {
  let last = 0;
  for (let cpu = 0; cpu < cpus.length * 8; cpu++) if (isIn(cpus, cpu)) last = cpu;
  return last;
}

function isIn(cpus: Buffer, cpu: number): boolean {
  return ((cpus[cpu >>> 3] ?? 0) & (1 << (cpu & 7))) !== 0;
}

/** A process that runs on one CPU only, and has run there. */
async function startOn(cpu: number) {
  const child = spawn("taskset", ["-c", `${cpu}`, "sh", "-c", "echo; exec sleep 600"], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  await once(child.stdout, "data");
  return { pid: child.pid ?? 0, [Symbol.dispose]: () => child.kill() };
}

it("a thread runs where a program does that asks again and again, until another asks", async () => {
  const syscalls = await syscallsOfThisMachine();
  const before = syscalls.cpus();
  const cpu = lastOf(before);
  using client = await startOn(cpu);
  const near = new NearClient(syscalls);
  try {
    for (let i = 0; i < 10; i++) near.answered(client.pid, 100);
    expect(syscalls.cpus()).toEqual(before);
    for (let i = 0; i < 90; i++) near.answered(client.pid, 100);
    const only = Buffer.alloc(before.length);
    only[cpu >>> 3] = 1 << (cpu & 7);
    expect(syscalls.cpus()).toEqual(only);
    near.answered(0, 100);
    expect(syscalls.cpus()).toEqual(only);
    near.answered(process.pid, 100);
    expect(syscalls.cpus()).toEqual(before);
  } finally {
    syscalls.setCpus(before);
  }
});

it("a thread follows no program for which is read ahead, nor one that is gone", async () => {
  const syscalls = await syscallsOfThisMachine();
  const before = syscalls.cpus();
  using client = await startOn(lastOf(before));
  const near = new NearClient(syscalls);
  try {
    for (let i = 0; i < 100; i++) near.answered(client.pid, 1 << 20);
    expect(syscalls.cpus()).toEqual(before);
    for (let i = 0; i < 100; i++) near.answered(2 ** 31 - 1, 100);
    expect(syscalls.cpus()).toEqual(before);
  } finally {
    syscalls.setCpus(before);
  }
});
