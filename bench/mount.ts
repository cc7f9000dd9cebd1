import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { openLocalStore } from "@castore/castore";
import type { Benchmark, BenchmarkOptions, Case, Group, Measures } from "./benchmark.ts";
import { kept } from "./kept.ts";
import { prepareLazyMount } from "./mount-lazy.ts";
import {
  bindfsPeer,
  castorePeer,
  compilePeer,
  fuseNativePeer,
  installPeers,
  lookupServerPeer,
  nativePeer,
  type Peer,
  type ShownTree,
  squashfusePeer,
} from "./mount-peers.ts";
import { benchPath, createBenchKeys, importPath } from "./path-import.ts";
import { writeLargeFile, writeTree } from "./sample-files.ts";

const execute = promisify(execFile);
const TREE_FILES = 50_000;
const LARGE_BYTES = 500e6;
/** The message of a directory of more would be above its limit of 1 MiB. */
const LOOKUPS = 20_000;
const RANDOM_READS = 50_000;
/** Beside a sample, in the directory that is kept. */
const STORE = "store";
const IMAGE = "squashfs";

/** A tree in all the ways in which it is shown: native first. */
interface Sample {
  readonly title: string;
  /** To be called before anything is shown. */
  readonly prepare: () => Promise<void>;
  readonly peers: readonly Peer[];
}

/**
 * Reading through the mount, × the native file system and beside other FUSE servers. Fresh: newly
 * mounted, no names cached, the host's page cache warm. Warm: what was just done, once more.
 */
export async function prepareMount({ scale }: BenchmarkOptions): Promise<Benchmark> {
  await installPeers();
  const work = await mkdtemp(join(tmpdir(), "castore-bench-mount-"));
  const files = Math.max(50, Math.round(TREE_FILES * scale));
  const largeBytes = Math.max(1 << 20, Math.round(LARGE_BYTES * scale));
  const lookups = Math.max(100, Math.round(LOOKUPS * scale));
  const reads = Math.max(100, Math.round(RANDOM_READS * scale));
  const tree = sampleOf(work, {
    ...{ name: "tree", size: files, title: `${files.toLocaleString("en")} files` },
    write: (directory) => writeTree(directory, files),
  });
  const large = sampleOf(work, {
    ...{ name: "large", size: largeBytes, title: `${Math.round(largeBytes / 1e6)} MB` },
    write: (directory) => writeLargeFile(join(directory, "file"), largeBytes),
  });
  const lazy = prepareLazyMount(join(work, "lazy"), scale);
  return {
    corpus: { files, largeBytes, lookups, ...lazy.corpus },
    groups: [
      ...treeGroups(tree),
      ...largeGroups(large),
      await randomGroup(work, large, reads),
      await lookupGroup(work, lookups),
      ...lazy.groups,
    ],
    async close() {
      await lazy.close();
      await rm(work, { recursive: true, force: true });
    },
  };
}

interface SampleOptions {
  readonly name: string;
  readonly size: number;
  readonly title: string;
  readonly write: (directory: string) => Promise<void>;
}

function sampleOf(work: string, { name, size, title, write }: SampleOptions): Sample {
  const { directory, prepare } = kept(`mount/${name}-${size}`, async (directory) => {
    await importSample(directory, name, write);
    // As they are: decompression is not what is compared.
    const plain = ["-noI", "-noD", "-noF", "-noX", "-no-progress", "-quiet"];
    await execute("mksquashfs", [join(directory, name), join(directory, IMAGE), ...plain]);
  });
  const native = join(directory, name);
  const at = (peer: string) => join(work, `${name}-by-${peer}`);
  const below = benchPath(name);
  const castore = { store: join(directory, STORE), below };
  const peers = [
    nativePeer(native),
    castorePeer("castore", { ...castore, at: at("castore") }),
    castorePeer("castore --passthrough", { ...castore, at: at("through"), passthrough: true }),
    castorePeer("castore --kernel", { ...castore, at: at("kernel"), kernel: [below] }),
    squashfusePeer(join(directory, IMAGE), at("squashfuse")),
    bindfsPeer(native, at("bindfs")),
    ...(process.arch === "x64" ? [fuseNativePeer(native, at("fuse-native"))] : []),
  ];
  return { title, prepare, peers };
}

/** Writes a sample, and a store that has it. */
async function importSample(
  directory: string,
  name: string,
  write: SampleOptions["write"],
): Promise<void> {
  const files = join(directory, name);
  await mkdir(files);
  await write(files);
  await using store = await openLocalStore({ path: join(directory, STORE), create: true });
  await importPath(store, files, { name, references: [], keys: createBenchKeys() });
}

function treeGroups(sample: Sample): Group[] {
  const { title } = sample;
  const find = (at: string) => `find '${at}' -printf '%s %m %T@\\n' >/dev/null`;
  const read = (at: string) => `tar -C '${at}' -cf - . | cat >/dev/null`;
  return [
    {
      name: `find with stat, fresh, ${title}`,
      cases: freshCases(sample, find),
      targets: { castore: 1.4 },
      limits: { "castore --kernel": { requests: 0 } },
    },
    {
      name: `find with stat, warm, ${title}`,
      cases: warmCases(sample, find),
      targets: { castore: 1.1 },
      limits: { "castore --kernel": { requests: 0 } },
    },
    {
      name: `all small files, fresh, ${title}`,
      cases: freshCases(sample, read),
      targets: { castore: 1.8 },
    },
    {
      name: `all small files, warm, ${title}`,
      cases: warmCases(sample, read),
      targets: { castore: 1.3 },
    },
  ];
}

function largeGroups(sample: Sample): Group[] {
  const { title } = sample;
  const read = (at: string) => `dd if='${at}/file' of=/dev/null bs=1M status=none`;
  const targets = { castore: 5, "castore --passthrough": 1.5 };
  return [
    { name: `one file of ${title}, fresh`, cases: freshCases(sample, read), targets },
    { name: `one file of ${title}, warm`, cases: warmCases(sample, read), targets },
  ];
}

async function randomGroup(work: string, sample: Sample, reads: number): Promise<Group> {
  const program = await compilePeer("random-reads", work);
  return {
    name: `random 4 KiB, ${reads.toLocaleString("en")} of ${sample.title}, fresh`,
    cases: freshCases(sample, (at) => `'${program}' '${at}/file' ${reads}`),
    targets: { "castore --passthrough": 2.5 },
  };
}

async function lookupGroup(work: string, count: number): Promise<Group> {
  const [server, client] = [
    await compilePeer("lookup-server", work),
    await compilePeer("lookups", work),
  ];
  const { directory, prepare } = kept(`mount/names-${count}`, (directory) =>
    importSample(directory, "names", async (files) => {
      for (let i = 0; i < count; i++) await writeFile(join(files, `file-${i}`), "");
    }),
  );
  const castore = { store: join(directory, STORE), below: benchPath("names") };
  const at = (peer: string) => join(work, `names-by-${peer}`);
  const peers = [
    lookupServerPeer(server, at("loop")),
    castorePeer("castore", { ...castore, at: at("castore") }),
    bindfsPeer(join(directory, "names"), at("bindfs")),
  ];
  const script = (at: string) => `'${client}' '${at}' ${count}`;
  // The name that is not there has the directory loaded, and nothing of it cached.
  const load = (at: string) => `stat '${at}/absent' >/dev/null 2>&1 || true`;
  return {
    name: `LOOKUP of ${count.toLocaleString("en")} names, × a loop in C`,
    cases: freshCases({ title: "", prepare, peers }, script, load),
    targets: { castore: 1.25 },
  };
}

type Script = (at: string) => string;

function freshCases({ prepare, peers }: Sample, script: Script, load?: Script): Case[] {
  return peers.map((peer) => ({
    name: peer.name,
    async measure() {
      await prepare();
      await using tree = await peer.show();
      if (load !== undefined) await run(load(tree.at));
      await forgetNames();
      return await measured(tree, script);
    },
  }));
}

/** Names and attributes, as of a new mount, also of the native file system; pages stay. */
async function forgetNames(): Promise<void> {
  await writeFile("/proc/sys/vm/drop_caches", "2");
}

function warmCases({ prepare, peers }: Sample, script: Script): Case[] {
  return peers.map((peer) => ({
    name: peer.name,
    async measure() {
      await prepare();
      await using tree = await peer.show();
      await run(script(tree.at));
      return await measured(tree, script);
    },
  }));
}

/** Seconds and CPU seconds of the script; of the server, where it tells, those and requests. */
async function measured(tree: ShownTree, script: Script): Promise<Measures> {
  const before = await tree.measures();
  const { seconds, cpu } = await run(script(tree.at));
  const after = await tree.measures();
  const server = Object.entries(after).map(([name, value]) => {
    return [name === "cpu" ? "serverCpu" : name, value - (before[name] ?? 0)] as const;
  });
  return { seconds, cpu, ...Object.fromEntries(server) };
}

async function run(script: string): Promise<{ readonly seconds: number; readonly cpu: number }> {
  const timed = `set -e -o pipefail; TIMEFORMAT='%3R %3U %3S'; time { ${script}; }`;
  const { stderr } = await execute("bash", ["-c", timed], { maxBuffer: 1 << 26, cwd: "/" });
  const [seconds = 0, user = 0, system = 0] =
    stderr.trim().split("\n").at(-1)?.split(" ").map(Number) ?? [];
  return { seconds, cpu: user + system };
}
