import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const castore = new URL("../dist/index.js", import.meta.url).href;

/**
 * What a child process knows: `store` is the open store, `say(line)` tells the parent, `tree(i)`
 * puts a tree that only `i` decides: a large and a small file, and a directory in between.
 */
const PRELUDE = `
import { openLocalStore, directoryOf, digestOf, encodeDirectory } from ${JSON.stringify(castore)};
import { writeSync } from "node:fs";
const say = (line) => writeSync(1, line + "\\n");
const file = async (bytes) => {
  const { digest, size } = await store.blobs.put([bytes]);
  return { type: "file", digest, size, executable: false };
};
const tree = async (i) => {
  const [large, small] = await Promise.all([
    file(Buffer.alloc(5000 + (i % 7) * 50000, "large " + i)),
    file(Buffer.from("small " + i)),
  ]);
  const inner = directoryOf([{ name: "small", node: small }]);
  const digest = digestOf(encodeDirectory(inner));
  const node = { type: "directory", digest, size: inner.size };
  const root = directoryOf([{ name: "inner", node }, { name: "large", node: large }]);
  const rootDigest = await store.directories.putClosure([inner, root]);
  return { type: "directory", digest: rootDigest, size: root.size };
};
const store = await openLocalStore({ path: process.argv[1], create: true });
`;

/** A child process that works on a store. */
export interface StoreProcess {
  readonly child: ChildProcess;
  readonly lines: AsyncIterableIterator<string>;
  /** Resolves once the process has ended; with what it wrote to stderr. */
  readonly ended: Promise<string>;
}

/** Runs `script`, an ECMAScript module, after the prelude, in a Node of its own. */
export function startStoreProcess(
  storePath: string,
  script: string,
  wrapper: readonly string[] = [],
): StoreProcess {
  const node = [process.execPath, "--input-type=module", "-e", PRELUDE + script, storePath];
  const [command = "", ...args] = [...wrapper, ...node];
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  const ended = new Promise<string>((resolve) => child.once("close", () => resolve(stderr)));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return { child, lines, ended };
}

/** A system call as strace saw it: where it began and ended among all lines. */
export interface SystemCall {
  readonly name: string;
  readonly text: string;
  readonly began: number;
  readonly ended: number;
}

/** Parses what `strace -f -y -o path` has written. */
export function readSystemCalls(path: string): SystemCall[] {
  const calls: SystemCall[] = [];
  const open = new Map<string, { name: string; text: string; began: number }>();
  readFileSync(path, "latin1")
    .split("\n")
    .forEach((line, at) => {
      const [, thread = "", rest = ""] = /^(\d+)\s+(.*)$/.exec(line) ?? [];
      const resumed = /^<\.\.\. (\w+) resumed>(.*)$/.exec(rest);
      const begun = open.get(thread);
      if (resumed !== null && begun !== undefined) {
        calls.push({ ...begun, text: begun.text + (resumed[2] ?? ""), ended: at });
        open.delete(thread);
        return;
      }
      const name = /^(\w+)\(/.exec(rest)?.[1];
      if (name === undefined) return;
      if (rest.endsWith("<unfinished ...>")) open.set(thread, { name, text: rest, began: at });
      else calls.push({ name, text: rest, began: at, ended: at });
    });
  return calls;
}

/** Runs `use` with a file system of its own at `path`, unmounted afterwards. */
export async function withMount(
  path: string,
  args: readonly string[],
  use: () => Promise<void>,
): Promise<void> {
  execFileSync("mount", [...args, path]);
  try {
    await use();
  } finally {
    execFileSync("umount", ["-l", path]);
  }
}
