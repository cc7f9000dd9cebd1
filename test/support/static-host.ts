import { execFile, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { watch } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { type Nginx, startNginx } from "./nginx.ts";
import { repositoryRoot } from "./repository-root.ts";

/** The block of docs/operations.md that is headed by `label`, such as "nginx server". */
export function operationsBlock(label: string): string {
  const page = readFileSync(join(repositoryRoot(), "docs/operations.md"), "utf8");
  const [, rest] = page.split(`\n\`\`\`${label}\n`);
  if (rest === undefined) throw new Error(`docs/operations.md has no block ${label}`);
  return rest.slice(0, rest.indexOf("```"));
}

/** nginx serving an exported directory as docs/operations.md says. */
export async function staticNginx(directory: string, more = ""): Promise<Nginx> {
  return await startNginx({
    directory,
    server: operationsBlock("nginx castore-static.conf") + more,
  });
}

/** Runs a script of docs/operations.md as it stands. */
export async function runScript(name: string, env: Readonly<Record<string, string>>) {
  const script = operationsBlock(`sh ${name}`);
  await promisify(execFile)("sh", ["-euc", script], { env: { PATH: process.env.PATH, ...env } });
}

/** Runs a script of docs/operations.md with a slow rsync, and kills it once `isTime`. */
export async function killedScript(
  name: string,
  env: Readonly<Record<string, string>>,
  isTime: () => boolean,
): Promise<void> {
  const slow = mkdtempSync(join(tmpdir(), "castore-slow-"));
  const { stdout } = await promisify(execFile)("sh", ["-c", "command -v rsync"]);
  const program = `#!/bin/sh\nexec ${stdout.trim()} --bwlimit=1M "$@"\n`;
  writeFileSync(join(slow, "rsync"), program, { mode: 0o755 });
  const child = spawn("sh", ["-euc", operationsBlock(`sh ${name}`)], {
    env: { PATH: `${slow}:${process.env.PATH}`, ...env },
    stdio: "ignore",
    detached: true,
  });
  const gone = once(child, "close");
  while (child.exitCode === null && !isTime()) await new Promise(setImmediate);
  if (child.exitCode === null && child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
  const [code] = await gone;
  rmSync(slow, { recursive: true, force: true });
  if (code !== null) throw new Error(`${name}: was done before it could be killed`);
}

/** Runs `castore export`, and kills it once `directory` has so many narinfos. */
export async function killedExport(
  directory: string,
  args: readonly string[],
  narInfos: number,
): Promise<void> {
  const home = mkdtempSync(join(tmpdir(), "castore-home-"));
  const stop = new AbortController();
  const changes = watch(directory, { signal: stop.signal });
  const program = join(repositoryRoot(), "packages/cli/bin/castore.js");
  const env = { PATH: process.env.PATH, HOME: home };
  const child = spawn(process.execPath, [program, "export", ...args], { env, stdio: "ignore" });
  const gone = once(child, "close").finally(() => stop.abort());
  try {
    for await (const _change of changes) {
      const names = readdirSync(directory).filter((name) => name.endsWith(".narinfo"));
      if (names.length >= narInfos) child.kill("SIGKILL");
      if (child.killed) break;
    }
  } catch (error) {
    if (!stop.signal.aborted) throw error;
  }
  await gone;
  rmSync(home, { recursive: true, force: true });
}

export interface FileState {
  readonly hash: string;
  readonly size: number;
  /** Another one where the file was touched. */
  readonly changed: string;
}

/** The files below `directory`, by path. */
export function filesOf(directory: string): Map<string, FileState> {
  const entries = readdirSync(directory, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile());
  const paths = files.map(({ parentPath, name }) => join(parentPath, name)).sort();
  return new Map(
    paths.map((path) => {
      const { size, ino, mtimeNs } = statSync(path, { bigint: true });
      const hash = createHash("sha256").update(readFileSync(path)).digest("hex");
      const state = { hash, size: Number(size), changed: `${ino} ${mtimeNs}` };
      return [path.slice(directory.length + 1), state];
    }),
  );
}

export function hashesOf(directory: string): Map<string, string> {
  return new Map([...filesOf(directory)].map(([path, { hash }]) => [path, hash]));
}
