import { execFile } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { runCastore, startCastore } from "../test/support/castore-process.ts";
import { type Nginx, startNginx } from "../test/support/nginx.ts";
import { createNixWorld, type NixWorld } from "../test/support/nix-world.ts";
import { repositoryRoot } from "../test/support/repository-root.ts";
import {
  type Benchmark,
  type BenchmarkOptions,
  type Case,
  type Group,
  timed,
} from "./benchmark.ts";
import { startShapingRelay } from "./shaping-relay.ts";
import { buildUpdates, type Update } from "./update-corpus.ts";

const LINK = { bitsPerSecond: 100e6, roundTripMs: 20 };
/** Highest admissible time of the bridge, by that of plain Nix from xz. */
const TIME_TARGETS: Readonly<Record<string, number>> = {
  "8 patch releases": 0.65,
  "first download": 1.05,
  "5000 small files": 1.1,
};

/** What an update costs a real Nix over an ordinary link, and what it costs with the bridge. */
export async function prepareUpdate({ scale }: BenchmarkOptions): Promise<Benchmark> {
  const world = await createNixWorld();
  try {
    return await prepareIn(world, scale);
  } catch (error) {
    await world[Symbol.asyncDispose]();
    throw error;
  }
}

/** What stays for the next run, as compressing it takes minutes. */
class Kept {
  readonly directory = join(repositoryRoot(), ".cache/update-bench");
  readonly world: NixWorld;
  readonly keyFile = this.at("secret-key");

  constructor(world: NixWorld) {
    this.world = world;
    mkdirSync(this.directory, { recursive: true });
  }

  at(name: string): string {
    return join(this.directory, name);
  }

  /** The public key of all caches. */
  async key(): Promise<string> {
    if (!existsSync(this.keyFile)) {
      const args = ["key", "generate-secret", "--key-name", "bench-1"];
      writeFileSync(this.keyFile, (await this.world.run("nix", args)).stdout, { mode: 0o600 });
    }
    const [name, secret = ""] = readFileSync(this.keyFile, "utf8").trim().split(":");
    return `${name}:${Buffer.from(secret, "base64").subarray(32).toString("base64")}`;
  }

  /** A plain cache, compressed as Nix does unless told. */
  async cache(name: string, compression: string, paths: readonly string[]): Promise<string> {
    const query = `secret-key=${this.keyFile}&compression=${compression}`;
    const to = `file://${this.at(name)}?${query}`;
    await this.world.run("nix", ["copy", "--store", this.world.store.uri, "--to", to, ...paths]);
    return this.at(name);
  }

  /** A local store of castore that has the closures of `paths`. */
  async store(name: string, from: string, paths: readonly string[]): Promise<string> {
    const args = ["--upstream", `file://${from}`, "--trusted-public-key", await this.key()];
    await castore(["substitute", "--store", this.at(name), ...args, ...paths]);
    return this.at(name);
  }

  async staticCache(name: string, compression: string, store: string, paths: readonly string[]) {
    const to = ["--to", this.at(name), "--compression", compression];
    await castore(["export", "--store", store, ...to, ...paths]);
    return this.at(name);
  }
}

async function castore(args: readonly string[]): Promise<void> {
  const { code, stderr } = await runCastore(args);
  if (code !== 0) throw new Error(`castore ${args.join(" ")}: ${stderr}`);
}

async function prepareIn(world: NixWorld, scale: number): Promise<Benchmark> {
  const kept = new Kept(world);
  const key = await kept.key();
  const updates = await buildUpdates(world, kept.at("packages"), scale);
  const now = [...new Set(updates.flatMap((update) => update.new))];
  const xz = await kept.cache("xz", "xz", now);
  const zstd = await kept.cache("zstd", "zstd", now);
  const old = await kept.cache("old", "none", [...new Set(updates.flatMap(({ old }) => old))]);
  const served = await kept.store("serve-store", xz, now);
  const staticZstd = await kept.staticCache("static-zstd", "zstd:19", served, now);
  // NARs and chunks that are there are kept: compressing them again would give the same bytes.
  const parts = ["blobs", "chunks", "dirs"].map((part) => join(staticZstd, part));
  mkdirSync(kept.at("static-xz"), { recursive: true });
  await promisify(execFile)("cp", ["-aln", `${xz}/.`, ...parts, kept.at("static-xz")]);
  const staticXz = await kept.staticCache("static-xz", "xz", served, now);
  const serve = await startCastore("serve", ["--store", served]);
  const servers: Record<keyof Servers, Nginx> = {
    xz: await startNginx({ directory: xz, server: upgraded(serve.url) }),
    zstd: await startNginx({ directory: zstd }),
    staticXz: await startNginx({ directory: staticXz }),
    staticZstd: await startNginx({ directory: staticZstd }),
  };
  const groups: Group[] = [];
  for (const update of updates) {
    const name = `client-${update.name.replaceAll(" ", "-")}`;
    const store = update.old.length === 0 ? undefined : await kept.store(name, old, update.old);
    groups.push(updateGroup(world, { update, servers, key, store }));
  }
  return {
    corpus: { paths: now.length, link: "100 Mbit/s, 20 ms" },
    groups,
    async close() {
      for (const server of [...Object.values(servers), serve, world]) {
        await server[Symbol.asyncDispose]();
      }
    },
  };
}

/** The plain cache offers what castore serve has, below the same origin. */
function upgraded(serveUrl: string): string {
  return `
    location = /nix-cache-info {
      return 200 "StoreDir: /nix/store\\nWantMassQuery: 1\\nUpgrade: castore/1 castore/\\n";
    }
    location /castore/ {
      proxy_pass ${serveUrl};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }`;
}

interface Servers {
  /** NARs as nix copy makes them; this one offers castore serve, too. */
  readonly xz: Nginx;
  readonly zstd: Nginx;
  readonly staticXz: Nginx;
  readonly staticZstd: Nginx;
}

interface GroupOptions {
  readonly update: Update;
  readonly servers: Servers;
  readonly key: string;
  /** A store of castore that has the old closures, and is only copied. */
  readonly store: string | undefined;
}

function updateGroup(world: NixWorld, options: GroupOptions): Group {
  const { update, servers, key } = options;
  let xzBytes = Number.NaN;
  const overLink = async (server: Nginx, work: (url: string) => Promise<number>) => {
    await using relay = await startShapingRelay(server.url, LINK);
    const before = server.requests().length;
    const seconds = await work(relay.url);
    const bytes = relay.bytesDown + relay.bytesUp;
    if (Number.isNaN(xzBytes)) xzBytes = bytes;
    return {
      seconds,
      bytes,
      percentOfXz: (100 * bytes) / xzBytes,
      requests: server.requests().length - before,
    };
  };
  const nix = (name: string, server: Nginx): Case => ({
    name,
    measure: () => overLink(server, (url) => substitute(world, update.new, url, key)),
  });
  const bridge = (name: string, server: Nginx, upgrade: string): Case => ({
    name,
    measure: () => overLink(server, (url) => throughBridge(world, options, url, upgrade)),
  });
  const target = TIME_TARGETS[update.name];
  const names = ["bridge by Upgrade", "bridge from the static export, xz"];
  return {
    name: `${update.name}, 100 Mbit/s and 20 ms`,
    cases: [
      nix("nix, xz", servers.xz),
      nix("nix, zstd", servers.zstd),
      bridge("bridge by NAR", servers.xz, "never"),
      bridge("bridge by Upgrade", servers.xz, "auto"),
      bridge("bridge from the static export, xz", servers.staticXz, "auto"),
      bridge("bridge from the static export, zstd:19", servers.staticZstd, "auto"),
    ],
    targets:
      target === undefined ? {} : Object.fromEntries(names.map((name) => [name, target] as const)),
  };
}

/** Seconds of `nix-store -r` from a new bridge, whose store has the old closures. */
async function throughBridge(
  world: NixWorld,
  { update, key, store }: GroupOptions,
  url: string,
  upgrade: string,
): Promise<number> {
  const own = world.temporary("bridge");
  try {
    if (store !== undefined) await promisify(execFile)("cp", ["-a", store, own]);
    await using bridge = await startCastore("bridge", [
      ...["--store", own, "--upstream", url, "--upgrade", upgrade],
      ...["--trusted-public-key", key],
    ]);
    return await substitute(world, update.new, bridge.url, key);
  } finally {
    await rm(own, { recursive: true, force: true });
  }
}

/** One `nix-store -r` into a new store, which is removed afterwards. */
async function substitute(
  world: NixWorld,
  paths: readonly string[],
  url: string,
  key: string,
): Promise<number> {
  const into = world.createStore();
  try {
    return await timed(() => world.substitute(paths, { urls: [url], into, trustedKeys: [key] }));
  } finally {
    await rm(into.root, { recursive: true, force: true });
  }
}
