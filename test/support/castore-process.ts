import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Output } from "./nix-world.ts";
import { repositoryRoot } from "./repository-root.ts";

export interface CastoreOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
}

/** A server of castore as a child. Disposal kills it if it still runs. */
export interface CastoreProcess extends AsyncDisposable {
  /** http://127.0.0.1:PORT, as its first line on stdout says. */
  readonly url: string;
  readonly pid: number;
  /** Everything written so far. */
  readonly stdout: string;
  readonly stderr: string;
  /** The highest RssAnon + RssShmem seen, in bytes, sampled every 20 ms. */
  readonly memoryPeak: number;
  /** CPU seconds so far, user and system, of all its threads. */
  cpuSeconds(): number;
  /** SIGTERM. Rejects unless it ends with exit code 0 within two seconds. */
  stop(): Promise<void>;
  /** SIGKILL; resolves once it is gone. */
  kill(): Promise<void>;
}

const READY_MS = 30_000;
const STOP_MS = 2_000;
const SAMPLE_MS = 20;

/** Resolves once it listens. A port of its own and a home of its own, unless `args` say more. */
export async function startCastore(
  command: "bridge" | "serve" | "netboot serve",
  args: readonly string[],
  options: CastoreOptions = {},
): Promise<CastoreProcess> {
  const home = mkdtempSync(join(tmpdir(), "castore-home-"));
  const listen = args.includes("--listen") ? [] : ["--listen", "127.0.0.1:0"];
  const child = spawn(
    process.execPath,
    [castoreProgram(), ...command.split(" "), ...listen, ...args],
    {
      cwd: options.cwd ?? home,
      env: environment(home, options.env),
      stdio: ["ignore", "pipe", "pipe"],
    },
  );
  const written = { stdout: "", stderr: "" };
  for (const stream of ["stdout", "stderr"] as const) {
    child[stream]?.setEncoding("utf8").on("data", (text: string) => {
      written[stream] += text;
    });
  }
  const gone = once(child, "close").finally(() => rmSync(home, { recursive: true, force: true }));
  gone.catch(() => {});
  const url = await readyUrl(child, command, written);
  const memory = sampleMemory(child);
  return {
    url,
    pid: child.pid ?? 0,
    get stdout() {
      return written.stdout;
    },
    get stderr() {
      return written.stderr;
    },
    get memoryPeak() {
      return memory.peak;
    },
    cpuSeconds: () => cpuSecondsOf(child.pid ?? 0),
    async stop() {
      child.kill("SIGTERM");
      const late = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
      await gone;
      clearTimeout(late);
      if (child.exitCode === 0) return;
      const how = child.exitCode === null ? "not at all" : `with exit code ${child.exitCode}`;
      throw new Error(`castore ${command}: after SIGTERM it ended ${how}\n${written.stderr}`);
    },
    async kill() {
      child.kill("SIGKILL");
      await gone;
    },
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await gone;
    },
  };
}

/** Any other command, to its end. */
export async function runCastore(
  args: readonly string[],
  options: CastoreOptions & { readonly input?: Uint8Array } = {},
): Promise<Output> {
  const home = mkdtempSync(join(tmpdir(), "castore-home-"));
  const settings = {
    cwd: options.cwd ?? home,
    env: environment(home, options.env),
    maxBuffer: 256 << 20,
  };
  try {
    return await new Promise<Output>((resolve, reject) => {
      const command = [castoreProgram(), ...args];
      const child = execFile(process.execPath, command, settings, (error, stdout, stderr) => {
        if (child.exitCode !== null) resolve({ code: child.exitCode, stdout, stderr });
        else reject(error);
      });
      child.stdin?.end(options.input);
    });
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
}

/** What `node` runs as the command. */
export function castoreProgram(): string {
  return join(repositoryRoot(), "packages/cli/bin/castore.js");
}

/** Nothing of the user's: no proxies, no nix.conf, no netrc, no store. */
function environment(
  home: string,
  more: Readonly<Record<string, string>> = {},
): Record<string, string> {
  return {
    PATH: process.env.PATH ?? "/usr/bin:/bin",
    TMPDIR: tmpdir(),
    HOME: home,
    XDG_CACHE_HOME: join(home, ".cache"),
    XDG_CONFIG_HOME: join(home, ".config"),
    NIX_CONF_DIR: join(home, "nix"),
    ...more,
  };
}

async function readyUrl(
  child: ChildProcess,
  command: string,
  written: { stdout: string; stderr: string },
): Promise<string> {
  const pattern = new RegExp(`^castore ${command} listening on (http://[^\\s]+|unix:.+)\n`);
  const limit = AbortSignal.timeout(READY_MS);
  const ended = once(child, "close", { signal: limit });
  ended.catch(() => {});
  for (;;) {
    const match = pattern.exec(written.stdout);
    if (match?.[1] !== undefined) return match[1];
    if (written.stdout.includes("\n")) break;
    const more = child.stdout === null ? ended : once(child.stdout, "data", { signal: limit });
    const isOver = await Promise.race([more.then(() => false), ended.then(() => true)]).catch(
      () => true,
    );
    if (isOver) break;
  }
  child.kill("SIGKILL");
  throw new Error(
    `castore ${command} did not get ready (${child.exitCode ?? child.signalCode ?? "still up"})\n` +
      `stdout: ${written.stdout}\nstderr: ${written.stderr}`,
  );
}

function sampleMemory(child: ChildProcess): { readonly peak: number } {
  const memory = { peak: 0 };
  const timer = setInterval(() => {
    memory.peak = Math.max(memory.peak, memoryOf(child.pid ?? 0));
  }, SAMPLE_MS);
  child.once("close", () => clearInterval(timer));
  return memory;
}

/** RssAnon + RssShmem of a process in bytes; 0 once it is gone. LMDB's map is not counted. */
export function memoryOf(pid: number): number {
  let status: string;
  try {
    status = readFileSync(`/proc/${pid}/status`, "utf8");
  } catch {
    return 0;
  }
  const kib = [...status.matchAll(/^Rss(?:Anon|Shmem):\s+(\d+) kB$/gm)].map(([, n]) => Number(n));
  return 1024 * kib.reduce((sum, n) => sum + n, 0);
}

function cpuSecondsOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  const ticksPerSecond = 100;
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}
