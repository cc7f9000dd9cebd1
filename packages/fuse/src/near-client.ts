import { readFileSync } from "node:fs";
import type { Syscalls } from "./syscalls.ts";

/** Requests in a row after which a program is followed, and after which its CPU is looked at. */
const FOLLOWED_AFTER = 16;
const LOOK_EVERY = 64;
/** An answer of more is one of a file's read-ahead, for which a program does not wait. */
const WAITED_BYTES_MAX = 128 << 10;
/** Of /proc/PID/stat, counted from behind the program's name: the CPU on which it ran last. */
const STAT_PROCESSOR = 36;

/**
 * Keeps the calling thread on the CPU of a program that asks for one thing after the other. Either
 * of them waits while the other one works; where each has a CPU of its own, that sleeps meanwhile,
 * and waking it costs more than most answers: 80 µs of the 300 that a directory takes in a fresh
 * find. As soon as another program asks, the thread runs anywhere again.
 */
export class NearClient {
  readonly #syscalls: Pick<Syscalls, "cpus" | "setCpus">;
  /** Where the thread may run. */
  readonly #allowed: Buffer;
  #client = 0;
  #inRow = 0;
  #cpu: number | undefined;
  #failed = false;

  /** Throws where this cannot be done. */
  constructor(syscalls: Pick<Syscalls, "cpus" | "setCpus">) {
    this.#syscalls = syscalls;
    this.#allowed = syscalls.cpus();
  }

  /** A request of thread `client`, 0 where it is the kernel's own, was answered with `bytes`. */
  answered(client: number, bytes: number): void {
    if (client === 0 || this.#failed) return;
    if (client !== this.#client || bytes > WAITED_BYTES_MAX) {
      this.#client = client;
      this.#inRow = 0;
      if (this.#cpu !== undefined) this.#stayOn(undefined);
    } else if (this.#inRow++ % LOOK_EVERY === FOLLOWED_AFTER) {
      const cpu = cpuOf(client);
      if (cpu !== this.#cpu) this.#stayOn(cpu);
    }
  }

  /** On any CPU where that is undefined, or not one of the thread's. */
  #stayOn(cpu: number | undefined): void {
    let cpus = this.#allowed;
    if (cpu !== undefined) {
      const only = Buffer.alloc(cpus.length);
      only[cpu >>> 3] = (cpus[cpu >>> 3] ?? 0) & (1 << (cpu & 7));
      if (!only.equals(Buffer.alloc(cpus.length))) cpus = only;
    }
    try {
      this.#syscalls.setCpus(cpus);
    } catch {
      this.#failed = true; // the CPUs of this process changed, and the kernel chose others already
    }
    this.#cpu = cpu;
  }
}

/** The CPU on which a thread ran last; undefined where it is gone, or not to be seen. */
function cpuOf(thread: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${thread}/stat`, "latin1");
    const cpu = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[STAT_PROCESSOR]);
    return Number.isInteger(cpu) ? cpu : undefined;
  } catch {
    return undefined;
  }
}
