import { execFile, spawn } from "node:child_process";
import { once as eventOf } from "node:events";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { openLocalStore } from "@castore/castore";
import type { StorePath } from "@castore/nar-bridge";
import { castoreProgram, runCastore, startCastore } from "../test/support/castore-process.ts";
import { type CountingProxy, startCountingProxy } from "../test/support/counting-proxy.ts";
import { repositoryRoot } from "../test/support/repository-root.ts";
import { type Benchmark, type Case, type Measures, once, timed } from "./benchmark.ts";
import { kept } from "./kept.ts";
import { type BenchKeys, createBenchKeys, importPath } from "./path-import.ts";
import { startShapingRelay } from "./shaping-relay.ts";

const execute = promisify(execFile);
const LINK = { bitsPerSecond: 100e6, roundTripMs: 20 };
const CLOSURE_BYTES = 500e6;
/** In the directory that is kept. */
const STORE = "served";
const CLOSURE_FILE = "closure.json";
const IMPORTS = "import json, asyncio, email, http.client";

/** What stays of a closure for the next run. */
interface Closure {
  /** Public keys of narinfos and of roots. */
  readonly narInfoKey: string;
  readonly rootKey: string;
  readonly python: StorePath;
  /** It and all that it refers to. */
  readonly paths: readonly StorePath[];
  readonly xzBytes: number;
}

/** A closure, and what it is served by. */
interface Served extends Closure, AsyncDisposable {
  readonly proxy: CountingProxy;
}

/**
 * python3 from a mount that has nothing yet, over 100 Mbit/s and 20 ms, in a chroot made from what
 * is mounted; beside it, the closure substituted first.
 */
export function prepareLazyMount(work: string, scale: number): Benchmark {
  const served = once(() => serveClosure(scale));
  const trace = join(work, "trace");
  const limits = { received: 0.1 };
  return {
    corpus: { lazyClosureBytes: CLOSURE_BYTES * scale },
    groups: [
      {
        name: "python3 from nothing, 100 Mbit/s and 20 ms",
        cases: [
          {
            name: "substituted first",
            measure: async () => substitutedFirst(work, await served()),
          },
          lazyCase("lazily", { work, served, options: ["--trace", trace] }),
          lazyCase("with a trace", { work, served, options: ["--prefetch", trace] }),
        ],
        targets: { lazily: 0.3, "with a trace": 0.15 },
        limits: { lazily: limits, "with a trace": { ...limits, requests: 50 } },
      },
      {
        name: "all of the closure, 100 Mbit/s and 20 ms",
        cases: [
          { name: "substituted", measure: async () => substituted(work, await served()) },
          {
            name: "read through the mount",
            measure: async () => readThroughMount(work, await served()),
          },
        ],
        targets: { "read through the mount": 1.2 },
      },
    ],
    async close() {
      if (served.isMade()) await (await served())[Symbol.asyncDispose]();
    },
  };
}

/** Makes the closure, unless an earlier run did, and serves it. */
async function serveClosure(scale: number): Promise<Served> {
  const { directory, prepare } = kept(`mount/closure-${scale}`, (at) => makeClosure(at, scale));
  await prepare();
  const closure: Closure = JSON.parse(await readFile(join(directory, CLOSURE_FILE), "utf8"));
  const serve = await startCastore("serve", ["--store", join(directory, STORE)]);
  const proxy = await startCountingProxy(serve.url);
  return {
    ...{ ...closure, proxy },
    async [Symbol.asyncDispose]() {
      await proxy[Symbol.asyncDispose]();
      await serve[Symbol.asyncDispose]();
    },
  };
}

function lazyCase(
  name: string,
  { work, served, options }: LazyCaseOptions & { readonly options: readonly string[] },
): Case {
  const measure = async () => {
    const { python, ...rest } = await served();
    const action = (at: string) => runPython(work, at, python);
    return await throughMount(work, { python, ...rest }, options, action);
  };
  return { name, measure };
}

interface LazyCaseOptions {
  readonly work: string;
  readonly served: () => Promise<Served>;
}

async function readThroughMount(work: string, served: Served): Promise<Measures> {
  const names = served.paths.join(" ");
  return await throughMount(work, served, [], (at) =>
    run(["bash", "-c", `set -o pipefail; tar -C '${at}' -cf - ${names} | cat >/dev/null`]),
  );
}

/** Mounts with an empty store, does `action` and says what it took. */
async function throughMount(
  work: string,
  served: Served,
  more: readonly string[],
  action: (at: string) => Promise<void>,
): Promise<Measures> {
  const { proxy } = served;
  await using relay = await startShapingRelay(proxy.url, LINK);
  const at = join(work, "mnt");
  const store = join(work, "mounted");
  await mkdir(at, { recursive: true });
  const trust = ["--trusted-root-key", served.rootKey, ...upstreamOf(relay, served)];
  const args = ["mount", "--store", store, ...trust, "--list-root", ...more, at];
  const child = spawn(process.execPath, [castoreProgram(), ...args], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exited = eventOf(child, "exit");
  try {
    await eventOf(child.stdout, "data");
    // A mount that is ready: what the upstream says of itself is known by then.
    proxy.clear();
    const before = relay.bytesDown;
    const seconds = await timed(() => action(at));
    return measuresOf(seconds, relay.bytesDown - before, served);
  } finally {
    child.kill("SIGTERM");
    await exited;
    await rm(store, { recursive: true, force: true });
  }
}

async function substituted(
  work: string,
  served: Served,
  action: () => Promise<void> = async () => {},
): Promise<Measures> {
  const store = join(work, "substituted");
  const { proxy } = served;
  await using relay = await startShapingRelay(proxy.url, LINK);
  proxy.clear();
  try {
    const seconds = await timed(async () => {
      const path = `/nix/store/${served.python}`;
      const args = ["substitute", "--store", store, ...upstreamOf(relay, served), path];
      const { code, stderr } = await runCastore(args);
      if (code !== 0) throw new Error(stderr);
      await action();
    });
    return measuresOf(seconds, relay.bytesDown, served);
  } finally {
    // What served a mount of it may still be ending.
    await rm(store, { recursive: true, force: true, maxRetries: 20, retryDelay: 250 });
  }
}

function substitutedFirst(work: string, served: Served): Promise<Measures> {
  const store = join(work, "substituted");
  const at = join(work, "mnt");
  return substituted(work, served, async () => {
    await mkdir(at, { recursive: true });
    const { code, stderr } = await runCastore([
      ...["mount", "--store", store, ...upstreamOf(served.proxy, served), "--upgrade", "never"],
      ...["--background", at],
    ]);
    if (code !== 0) throw new Error(stderr);
    try {
      await runPython(work, at, served.python);
    } finally {
      await runCastore(["umount", at]);
    }
  });
}

const upstreamOf = ({ url }: { readonly url: string }, { narInfoKey }: Served): string[] => [
  ...["--upstream", url, "--trusted-public-key", narInfoKey],
];

function measuresOf(seconds: number, bytesDown: number, { xzBytes, proxy }: Served): Measures {
  const requests = proxy.requests.length;
  return { seconds, bytesDown, received: bytesDown / xzBytes, requests };
}

/** In a chroot whose /usr, /lib and /lib64 lead into the store path. */
async function runPython(work: string, at: string, python: StorePath): Promise<void> {
  const root = join(work, "root");
  const script = `set -e
    mkdir -p '${root}/nix/store'
    for name in usr lib lib64; do ln -sfn /nix/store/${python}/$name '${root}'/$name; done
    mount --bind '${at}' '${root}/nix/store'
    exec chroot '${root}' /usr/bin/python3 -c '${IMPORTS}'`;
  await run(["unshare", "-m", "--propagation", "private", "sh", "-c", script]);
}

async function run([program = "", ...args]: readonly string[]): Promise<void> {
  await execute(program, args, { maxBuffer: 1 << 26, cwd: "/" });
}

/**
 * A store with Debian's python3 as one path that refers to others, all of them CLOSURE_BYTES, and
 * beside it what there is to say of them.
 */
async function makeClosure(at: string, scale: number): Promise<void> {
  const keys = createBenchKeys();
  const files = join(at, "python");
  await copyPython(files);
  const paths = await importClosure(at, { files, keys, scale });
  const [python] = paths;
  const closure: Closure = {
    narInfoKey: keys.narInfo.publicKey.text,
    rootKey: keys.root.publicKey.text,
    ...{ python, paths, xzBytes: await exportedBytes(at, python) },
  };
  await writeFile(join(at, CLOSURE_FILE), JSON.stringify(closure));
}

/** python3 first. */
async function importClosure(
  at: string,
  { files, keys, scale }: { files: string; keys: BenchKeys; scale: number },
): Promise<readonly [StorePath, ...StorePath[]]> {
  await using store = await openLocalStore({ path: join(at, STORE), create: true });
  let bytes = await sizeOf(files);
  const references: StorePath[] = [];
  const modules = join(repositoryRoot(), "node_modules");
  const wanted = [...(await readdir(modules)).map((name) => join(modules, name)), ...SYSTEM];
  for (const directory of wanted) {
    if (bytes >= CLOSURE_BYTES * scale) break;
    const size = await sizeOf(directory);
    if (size < 100_000) continue;
    const name = directory
      .slice(1)
      .replace(/[^A-Za-z0-9+._-]+/g, "-")
      .slice(-80);
    references.push(await importPath(store, directory, { name, references: [], keys }));
    bytes += size;
  }
  const options = { name: "python3", references: references.sort(), keys };
  return [await importPath(store, files, options), ...references];
}

const SYSTEM = ["/usr/lib/x86_64-linux-gnu", "/usr/share", "/usr/bin"];

/** Debian's library of it, the program, and what that links to; times as in a Nix store. */
async function copyPython(to: string): Promise<void> {
  const script = `set -e
    python=$(readlink -f /usr/bin/python3)
    name=$(basename "$python")
    mkdir -p "$0/usr/bin" "$0/usr/lib" "$0/lib" "$0/lib64"
    cp "$python" "$0/usr/bin/python3"
    cp -rL "/usr/lib/$name" "$0/usr/lib/"
    find "$0/usr/lib/$name" -name '*.so' -print0 | xargs -0 ldd "$python" 2>/dev/null |
      sed -nE 's/.*(=> |\\t)(\\/[^ ]+).*/\\2/p' | sort -u | while read -r file; do
      mkdir -p "$0$(dirname "$file")"
      cp -nL "$file" "$0$file"
    done
    find "$0" -exec touch -h -d @1 '{}' +
    "$python" -m compileall -q -f "$0/usr/lib/$name" || true`;
  await execute("sh", ["-c", script, to], { maxBuffer: 1 << 26 });
}

async function sizeOf(directory: string): Promise<number> {
  const { stdout } = await execute("du", ["-s", "--apparent-size", "-B1", directory]);
  return Number(stdout.split("\t")[0]);
}

/** Bytes of the closure's NARs as a plain cache serves them. */
async function exportedBytes(at: string, path: StorePath): Promise<number> {
  const to = join(at, "exported");
  const compressed = ["--to", to, "--compression", "xz"];
  const args = ["export", "--store", join(at, STORE), ...compressed, `/nix/store/${path}`];
  const { code, stderr } = await runCastore(args);
  if (code !== 0) throw new Error(stderr);
  let bytes = 0;
  for (const name of await readdir(to)) {
    if (!name.endsWith(".narinfo")) continue;
    const text = await readFile(join(to, name), "utf8");
    bytes += Number(/^FileSize: (\d+)$/m.exec(text)?.[1]);
  }
  await rm(to, { recursive: true });
  return bytes;
}
