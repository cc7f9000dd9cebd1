import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { createInterface } from "node:readline";

/** What a script imports of castore: of the built `dist/`, as little as it needs. */
export function distUrl(path: string): string {
  return new URL(`../dist/${path}`, import.meta.url).href;
}

/**
 * What a child process knows: `store` is the open store, `say(line)` tells the parent, `tree(i)`
 * puts a tree that only `i` decides: a large and a small file, and a directory in between.
 */
const PRELUDE = `
import { openLocalStore } from "${distUrl("local/open-local-store.js")}";
import { directoryOf } from "${distUrl("model/directory.js")}";
import { encodeDirectory } from "${distUrl("model/directory-codec.js")}";
import { digestOf } from "${distUrl("model/digest.js")}";
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
BEFORE;
let store = await openLocalStore({ path: process.argv[1], create: true });
`;

/** A child process that works on a store. */
export interface StoreProcess {
  readonly child: ChildProcess;
  readonly lines: AsyncIterableIterator<string>;
  /** Resolves once the process has ended; with what it wrote to stderr. */
  readonly ended: Promise<string>;
}

export interface StoreProcessOptions {
  /** The command that runs it: strace, say. */
  readonly wrapper?: readonly string[];
  /** What runs before the store is opened. */
  readonly before?: string;
}

/** Runs `script`, an ECMAScript module, after the prelude, in a Node of its own. */
export function startStoreProcess(
  storePath: string,
  script: string,
  { wrapper = [], before = "" }: StoreProcessOptions = {},
): StoreProcess {
  const program = PRELUDE.replace("BEFORE", before) + script;
  const node = [process.execPath, "--input-type=module", "-e", program, storePath];
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
