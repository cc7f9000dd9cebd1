import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { closeSync, openSync, readFileSync, unlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { CastoreError } from "@castore/castore";
import { type FuseMount, mountFuse, type UnmountOptions, unmountFuse } from "./mountpoint.ts";

/** Descriptors that a serving process has from its supervisor. */
export interface InheritedMount {
  /** Of /dev/fuse. */
  readonly descriptor: number;
  /** Of a file that keeps node ids from one server to the next. */
  readonly journal: number;
  /** Whether to serve through a clone of the descriptor. Default: before Linux 6.9. */
  readonly clone?: boolean | undefined;
}

/** The numbers under which a process that `superviseMount` started has them. */
export const INHERITED_MOUNT: InheritedMount = { descriptor: 3, journal: 4 };

/** How often a server says that it is there. */
const ALIVE_MS = 500;
/** More failures than this within a minute, and no further server is started. */
const FAILURES_MAX = 5;
const MINUTE_MS = 60_000;

export interface SupervisorOptions {
  readonly mountpoint: string;
  /** A program that calls `mountStore` with INHERITED_MOUNT, and ends when the mount does. */
  readonly command: readonly [program: string, ...args: string[]];
  readonly allowOther?: boolean | undefined;
  readonly over?: boolean | undefined;
  /** As of MountpointOptions. */
  readonly readAheadKib?: number | undefined;
  /**
   * A server that says nothing for so long is killed and followed by another; after twice that
   * without one that speaks, whoever waits gets an error and the mount is taken away. Default 60 s.
   */
  readonly timeoutMs?: number | undefined;
  readonly log?: ((message: string) => void) | undefined;
}

export interface SupervisedMount extends AsyncDisposable {
  readonly mountpoint: string;
  /** The process that serves now. */
  readonly pid: number;
  /** Resolves once the file system is gone; rejects UNAVAILABLE where no server would stay. */
  readonly ended: Promise<void>;
  /** As `Mount.unmount`. */
  unmount(options?: UnmountOptions): Promise<void>;
  /** Unmounts by force, unless that happened already. Idempotent. */
  close(): Promise<void>;
}

/**
 * Mounts, and lets another process serve: when that dies or hangs, its successor goes on with the
 * same descriptor, the same node ids, and the requests that were not answered. Programs notice a
 * pause. Resolves once the first server serves. Before Linux 6.9, what a dying server had read
 * fails with ECONNABORTED.
 */
export async function superviseMount(options: SupervisorOptions): Promise<SupervisedMount> {
  const mountpoint = resolve(options.mountpoint);
  const { allowOther = false, over = false, readAheadKib } = options;
  const fuse = await mountFuse(mountpoint, { allowOther, over, readAheadKib });
  const supervisor = new Supervisor(fuse, options);
  const mount: SupervisedMount = {
    mountpoint,
    get pid() {
      return supervisor.pid;
    },
    ended: supervisor.ended,
    async unmount(how) {
      await unmountFuse(mountpoint, how);
      await supervisor.ended;
    },
    async close() {
      if (!supervisor.over) fuse.abandon();
      await supervisor.ended.catch(() => {}); // told to whoever waits for `ended`
    },
    async [Symbol.asyncDispose]() {
      await this.close();
    },
  };
  await Promise.race([supervisor.ready, supervisor.ended]);
  return mount;
}

class Supervisor {
  /** Resolves once a server serves. */
  readonly ready: Promise<void>;
  readonly ended: Promise<void>;
  over = false;
  readonly #fuse: FuseMount;
  readonly #options: SupervisorOptions;
  readonly #journal: number;
  readonly #failures: number[] = [];
  readonly #watch: NodeJS.Timeout;
  #child: ChildProcess;
  #startedAt = 0;
  #aliveAt = 0;
  /** How often in a row the server was seen dead, and not gone. */
  #remains = 0;
  #isReady: () => void = () => {};
  #end: (error?: CastoreError) => void = () => {};

  constructor(fuse: FuseMount, options: SupervisorOptions) {
    this.#fuse = fuse;
    this.#options = options;
    this.#journal = openJournal();
    this.ready = new Promise((resolve) => {
      this.#isReady = resolve;
    });
    this.ended = new Promise((resolve, reject) => {
      this.#end = (error) => {
        if (error === undefined) resolve();
        else reject(error);
      };
    });
    this.ended.catch(() => {}); // for whoever asks
    process.once("exit", fuse.abandon);
    this.#child = this.#start();
    const timeoutMs = options.timeoutMs ?? MINUTE_MS;
    // The first one may take a minute to begin, however impatient its clients will be.
    this.#aliveAt = performance.now() + Math.max(0, MINUTE_MS - 2 * timeoutMs);
    this.#watch = setInterval(() => this.#look(timeoutMs), Math.min(ALIVE_MS, timeoutMs / 4));
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  #start(): ChildProcess {
    const [program, ...args] = this.#options.command;
    const { descriptor } = this.#fuse;
    const child = spawn(program, args, {
      stdio: ["ignore", "ignore", "inherit", descriptor, this.#journal, "ipc"],
    });
    this.#startedAt = performance.now();
    this.#remains = 0;
    child.on("message", () => {
      this.#aliveAt = performance.now();
      this.#isReady();
    });
    child.once("error", (error) => this.#failed(`cannot be started: ${error.message}`));
    child.once("exit", (code, signal) => {
      if (child !== this.#child) return;
      if (code === 0) this.#finish();
      else this.#failed(`ended with ${signal ?? code}`);
    });
    return child;
  }

  #look(timeoutMs: number): void {
    const now = performance.now();
    // A thread of it may wait for a page until its successor answers a request for that: whoever is
    // dead at two looks does not just wait to be asked how it ended.
    this.#remains = isDead(this.pid) ? this.#remains + 1 : 0;
    if (this.#remains > 1) this.#failed("was killed and cannot end");
    else if (now - this.#aliveAt > 2 * timeoutMs) this.#giveUp("no server answers");
    else if (now - Math.max(this.#aliveAt, this.#startedAt) > timeoutMs) {
      this.#options.log?.(`server ${this.pid}: silent for ${timeoutMs / 1000} s, killed`);
      this.#startedAt = now;
      this.#child.kill("SIGKILL");
    }
  }

  #failed(how: string): void {
    if (this.over) return;
    const now = performance.now();
    this.#options.log?.(`server ${this.pid}: ${how}`);
    while ((this.#failures[0] ?? now) < now - MINUTE_MS) this.#failures.shift();
    this.#failures.push(now);
    if (this.#failures.length > FAILURES_MAX) this.#giveUp(`the server ${how} again and again`);
    else this.#child = this.#start();
  }

  #giveUp(why: string): void {
    if (this.over) return;
    const { mountpoint } = this.#options;
    this.#fuse.abandon();
    this.#finish(new CastoreError("UNAVAILABLE", `mount ${mountpoint}: given up, ${why}`));
    this.#child.kill("SIGKILL");
  }

  #finish(error?: CastoreError): void {
    if (this.over) return;
    this.over = true;
    clearInterval(this.#watch);
    process.removeListener("exit", this.#fuse.abandon);
    closeSync(this.#fuse.descriptor);
    closeSync(this.#journal);
    this.#end(error);
  }
}

/** Whether a process's first thread has ended. */
function isDead(pid: number): boolean {
  try {
    const status = readFileSync(`/proc/${pid}/stat`, "latin1");
    return status.slice(status.lastIndexOf(")") + 2).startsWith("Z");
  } catch {
    return false; // gone, or /proc is not there
  }
}

/** A file without a name, so that it goes when the last process does that has it open. */
function openJournal(): number {
  const path = join(tmpdir(), `castore-mount-${randomBytes(8).toString("hex")}`);
  const descriptor = openSync(path, "ax+", 0o600);
  unlinkSync(path);
  return descriptor;
}

/** Tells the supervisor, where there is one, that this process serves, until `ended`. */
export function reportAlive(ended: Promise<void>): void {
  const send = () => process.connected && process.send?.("alive", () => {});
  send();
  const timer = setInterval(send, ALIVE_MS).unref();
  const stop = () => clearInterval(timer);
  ended.then(stop, stop);
}
