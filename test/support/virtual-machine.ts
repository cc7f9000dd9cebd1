import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream, existsSync, mkdirSync, readdirSync } from "node:fs";
import { get } from "node:http";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { freePort } from "./ports.ts";
import { repositoryRoot } from "./repository-root.ts";

export interface MachineOptions {
  /** What its firmware loads, as seen from this machine: http://127.0.0.1:PORT/boot.ipxe. */
  readonly script?: string;
  /** A disk that UEFI firmware boots, in place of a script. */
  readonly image?: string;
  /** A disk beside that. */
  readonly disk?: string;
  /** Who stands between the machine and its network. */
  readonly network?: { readonly qemuArgs: readonly string[] };
  /** MiB of memory. */
  readonly memory?: number;
  readonly cpus?: number;
  /** Its console is also written here, for whoever reads a report. */
  readonly log: string;
}

/** A machine whose processor is software, as slow as that is. Disposal ends it. */
export interface VirtualMachine extends AsyncDisposable {
  /** All that its console showed. */
  readonly console: string;
  /** Resolves once the console shows `pattern`; rejects on a kernel panic, or its end. */
  shows(pattern: RegExp, timeoutMs?: number): Promise<void>;
  /** The answer of the machine's port 8000, asked for until it comes; rejects as `shows`. */
  answer(path: string, timeoutMs?: number): Promise<string>;
  /** Runs a line of shell at its console; resolves with what that wrote. */
  run(line: string, timeoutMs?: number): Promise<string>;
  /** Resolves once it has switched itself off. Rejects on a kernel panic. */
  off(timeoutMs?: number): Promise<void>;
}

/** Under software emulation, beside other tests on two cores, a boot may take many minutes. */
const PATIENCE_MS = 900_000;
const POLL_MS = 250;
const PANIC = /Kernel panic|BUG: |Oops:|general protection fault/;
/** For its kernel, which must not take it for a fault that this machine is busy with others. */
export const MACHINE_COMMAND_LINE =
  "console=ttyS0 quiet no_timer_check nowatchdog rcupdate.rcu_cpu_stall_suppress=1";
export const MACHINE_NAME = "52:54:00:12:34:56";

const LOOPBACK = "127.0.0.1";
/** Where the machine sees this one. */
export const GATEWAY = "10.0.2.2";

/** Boots over HTTP from user networking: the machine sees this one as 10.0.2.2. */
export async function startMachine(options: MachineOptions): Promise<VirtualMachine> {
  const { script, image, disk, network, memory = 1024, cpus = 1, log } = options;
  const port = await freePort();
  const bootfile = script === undefined ? "" : `,bootfile=${script.replace(LOOPBACK, GATEWAY)}`;
  // Without the card's boot program, firmware has nothing but the disk.
  const program = script === undefined ? ",romfile=" : "";
  const firmware = `if=pflash,format=raw,readonly=on,file=${machineParts().firmware}`;
  const child = spawn(
    "qemu-system-x86_64",
    [
      ...["-machine", "q35", "-cpu", "max", "-accel", "tcg", "-smp", `${cpus}`, "-m", `${memory}`],
      ...["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"],
      ...["-device", `virtio-net-pci,netdev=net,mac=${MACHINE_NAME}${program}`],
      ...["-netdev", `user,id=net${bootfile},hostfwd=tcp:${LOOPBACK}:${port}-:8000`],
      ...(network?.qemuArgs ?? []),
      ...(image === undefined ? [] : ["-drive", firmware]),
      ...(image === undefined ? [] : ["-drive", `if=virtio,format=raw,readonly=on,file=${image}`]),
      ...(disk === undefined ? [] : ["-drive", `if=virtio,format=raw,file=${disk}`]),
    ],
    { stdio: ["pipe", "pipe", "pipe"] },
  );
  const machine = new Machine(child, port, log);
  await Promise.race([once(child, "spawn"), once(child, "error").then(([error]) => fail(error))]);
  return machine;
}

function fail(error: unknown): never {
  throw error;
}

class Machine implements VirtualMachine {
  console = "";
  readonly #child: ChildProcess;
  readonly #port: number;
  readonly #gone: Promise<unknown>;
  #lines = 0;

  constructor(child: ChildProcess, port: number, log: string) {
    this.#child = child;
    this.#port = port;
    this.#gone = once(child, "close");
    this.#gone.catch(() => {});
    const file = createWriteStream(log);
    for (const stream of [child.stdout, child.stderr]) {
      stream?.pipe(file, { end: false });
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.console += text;
      });
    }
  }

  async shows(pattern: RegExp, timeoutMs = PATIENCE_MS): Promise<void> {
    await this.#until(`shows ${pattern}`, timeoutMs, async () =>
      pattern.test(this.console) ? "" : undefined,
    );
  }

  answer(path: string, timeoutMs = PATIENCE_MS): Promise<string> {
    return this.#until(`answers ${path}`, timeoutMs, () => this.#ask(path));
  }

  async run(line: string, timeoutMs = PATIENCE_MS): Promise<string> {
    const number = ++this.#lines;
    const at = this.console.length;
    // The console shows what is typed, too: there the marks look otherwise.
    this.#child.stdin?.write(`echo be""gin-${number}; ${line}; echo en""d-${number}\n`);
    const pattern = new RegExp(`begin-${number}\r?\n([^]*)end-${number}\r?\n`);
    const [, text = ""] = await this.#until(`runs ${line}`, timeoutMs, async () => {
      return pattern.exec(this.console.slice(at)) ?? undefined;
    });
    return text.replaceAll("\r", "");
  }

  async off(timeoutMs = PATIENCE_MS): Promise<void> {
    const limit = AbortSignal.timeout(timeoutMs);
    while (this.#child.exitCode === null) {
      this.#check("switches itself off");
      if (limit.aborted) throw this.#late("switches itself off");
      await Promise.race([this.#gone, setTimeout(POLL_MS)]);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#gone;
  }

  async #until<T>(
    what: string,
    timeoutMs: number,
    attempt: () => Promise<T | undefined>,
  ): Promise<T> {
    const limit = AbortSignal.timeout(timeoutMs);
    for (;;) {
      this.#check(what);
      const result = await attempt();
      if (result !== undefined) return result;
      if (this.#child.exitCode !== null) throw this.#error(what, "has ended");
      if (limit.aborted) throw this.#late(what);
      await setTimeout(POLL_MS);
    }
  }

  #ask(path: string): Promise<string | undefined> {
    return new Promise((resolve) => {
      const request = get({ port: this.#port, host: LOOPBACK, path, timeout: 10_000 });
      request.on("timeout", () => request.destroy());
      request.on("error", () => resolve(undefined));
      request.on("response", (response) => {
        let text = "";
        response.setEncoding("utf8").on("data", (piece: string) => {
          text += piece;
        });
        response.on("error", () => resolve(undefined));
        response.on("end", () => resolve(response.statusCode === 200 ? text : undefined));
      });
    });
  }

  #check(what: string): void {
    if (PANIC.test(this.console)) throw this.#error(what, "its kernel has failed");
  }

  #late(what: string): Error {
    return this.#error(what, "is late");
  }

  #error(what: string, why: string): Error {
    return new Error(`machine that ${what}: ${why}\n${this.console.slice(-4_000)}`);
  }
}

/** Programs of which a machine's system may be made, beside python. */
export type MachineExtra = "nix" | "network";

/** Paths of what .ci/netboot-packages has unpacked. */
export interface MachineParts {
  readonly kernel: string;
  readonly modules: string;
  /** The modules of the kernel for all machines. */
  readonly generic: string;
  readonly debs: string;
  readonly extraDebs: Readonly<Record<MachineExtra, string>>;
  /** Of UEFI. */
  readonly firmware: string;
  readonly efiStub: string;
  /** Where consoles are written. */
  readonly logs: string;
}

export function machineParts(): MachineParts {
  const parts = join(repositoryRoot(), ".cache/netboot");
  if (!existsSync(join(parts, "complete"))) {
    throw new Error(`${parts} is not there: .ci/netboot-packages makes it`);
  }
  const only = (directory: string, prefix: string) => {
    const name = readdirSync(join(parts, directory)).find((it) => it.startsWith(prefix));
    return join(parts, directory, name ?? "");
  };
  const logs = join(repositoryRoot(), ".cache");
  mkdirSync(logs, { recursive: true });
  return {
    kernel: only("kernel/boot", "vmlinuz-"),
    modules: only("kernel/lib/modules", ""),
    generic: join(parts, "generic"),
    debs: join(parts, "debs"),
    extraDebs: { nix: join(parts, "debs-nix"), network: join(parts, "debs-network") },
    firmware: join(parts, "efi/usr/share/OVMF/OVMF_CODE_4M.fd"),
    efiStub: join(parts, "efi/usr/lib/systemd/boot/efi/linuxx64.efi.stub"),
    logs,
  };
}
