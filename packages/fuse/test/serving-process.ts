import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

const program = fileURLToPath(new URL("serve-tree.js", import.meta.url));

export interface ServingProcess extends AsyncDisposable {
  readonly child: ChildProcess;
  /** Its exit code or signal. */
  readonly exited: Promise<number | string>;
  /** Unmounts; the exit code. */
  stop(): Promise<number | string>;
}

/**
 * A command as another user, who may still read and search everything: this project and Node may
 * lie in a directory that only root enters. Nothing else that root may is left to it.
 */
function asUser(uid: number, command: readonly string[]): readonly string[] {
  if (uid === process.getuid?.()) return command;
  const ids = [`--reuid=${uid}`, `--regid=${uid}`, "--clear-groups"];
  const reads = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"];
  return ["setpriv", ...ids, ...reads, "--", ...command];
}

const withoutKoffi = new URL("without-koffi.js", import.meta.url).href;

export interface ServingOptions {
  readonly uid?: number;
  /** As where koffi has no binary. */
  readonly withoutKoffi?: boolean;
}

/** Mounts trees of the host in a process of its own, of this user; resolves once it is mounted. */
export async function serveTrees(
  options: { readonly mountpoint: string; readonly trees: Readonly<Record<string, string>> } & {
    readonly [option: string]: unknown;
  },
  serving: ServingOptions = {},
): Promise<ServingProcess> {
  const { uid = process.getuid?.() ?? 0 } = serving;
  const hooks = serving.withoutKoffi === true ? ["--import", withoutKoffi] : [];
  const command = [process.execPath, ...hooks, program, JSON.stringify(options)];
  const [first = "", ...args] = asUser(uid, command);
  const child = spawn(first, args, { stdio: ["pipe", "pipe", "pipe"] });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  const exited = once(child, "exit").then(([code, signal]) => code ?? signal);
  const ready = once(child.stdout, "data").then(() => true);
  if (!(await Promise.race([ready, exited.then(() => false)]))) throw new Error(stderr);
  const stop = (): Promise<number | string> => {
    child.stdin.end();
    return exited;
  };
  return {
    child,
    exited,
    stop,
    async [Symbol.asyncDispose]() {
      if (child.exitCode === null && child.signalCode === null) await stop();
    },
  };
}
