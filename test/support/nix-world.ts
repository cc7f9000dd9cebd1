import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { repositoryRoot } from "./repository-root.ts";

export type CacheCompression = "none" | "xz" | "zstd" | "bzip2" | "gzip" | "br";

export interface Output {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  /** Where the client keeps its lookups; a new one by default, so that nothing is remembered. */
  readonly home?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
}

/** A chroot store: the store directory is /nix/store, its files lie under `root`. */
export interface NixStore {
  readonly root: string;
  /** What --store takes. */
  readonly uri: string;
  /** Where the files of a store path lie. */
  fileOf(storePath: string): string;
}

export interface PathInfo {
  readonly path: string;
  readonly narHash: string;
  readonly narSize: number;
  readonly references: readonly string[];
  readonly signatures?: readonly string[];
  readonly ca?: string;
}

export interface SubstituteOptions extends RunOptions {
  readonly urls: readonly string[];
  /** `name:base64` each; the key of this world by default. */
  readonly trustedKeys?: readonly string[];
  /** A new one by default. */
  readonly into?: NixStore;
  /** Further options of nix.conf. */
  readonly settings?: Readonly<Record<string, string>>;
}

/**
 * Debian's real Nix with nothing of this machine's own: configuration, stores, lookups and keys
 * live in one temporary directory, which disposal removes. Needs root, for builds.
 */
export interface NixWorld extends AsyncDisposable {
  readonly directory: string;
  /** The store in which closures are built. */
  readonly store: NixStore;
  readonly publicKey: string;
  readonly secretKeyFile: string;
  createStore(): NixStore;
  /** Runs a program of Nix. Rejects with what it wrote where it fails. */
  run(program: string, args: readonly string[], options?: RunOptions): Promise<Output>;
  /** The same, but a failure is an answer. */
  attempt(program: string, args: readonly string[], options?: RunOptions): Promise<Output>;
  /** Builds an attribute of closure.nix. Equal arguments give equal store paths everywhere. */
  build(attribute: string, args?: Readonly<Record<string, string>>): Promise<string>;
  /** A new plain cache below `directory`, signed, that holds the closures of `paths`. */
  copyToCache(paths: readonly string[], compression: CacheCompression): Promise<string>;
  /** `nix-store -r` of `paths` into a store, from `urls` and nothing else. */
  substitute(paths: readonly string[], options: SubstituteOptions): Promise<NixStore>;
  /** The reference closure of `paths`, sorted by path. */
  pathInfos(store: string, paths: readonly string[]): Promise<readonly PathInfo[]>;
  /** A new file with a secret key of this name. */
  createKey(name: string): Promise<string>;
  /** The public half of the key in a file, `name:base64`. */
  publicKeyOf(secretKeyFile: string): Promise<string>;
  /** A fresh name below `directory`; nothing is made. */
  temporary(name: string): string;
}

const SETTINGS = {
  "build-users-group": "",
  "experimental-features": "nix-command ca-derivations",
  sandbox: "false",
  // A chroot store builds in a mount namespace: it sees what is named here.
  "sandbox-paths": "/bin /usr /lib /lib64",
  substituters: "",
  "connect-timeout": "5",
};

export async function createNixWorld(): Promise<NixWorld> {
  const directory = mkdtempSync(join(tmpdir(), "castore-nix-"));
  let count = 0;
  const temporary = (name: string) => join(directory, `${name}-${++count}`);
  const attempt = (program: string, args: readonly string[], options: RunOptions = {}) =>
    execute(program, args, {
      cwd: directory,
      ...(options.signal === undefined ? {} : { signal: options.signal }),
      env: { ...environment(directory, options.home ?? temporary("home")), ...options.env },
    });
  const run = async (program: string, args: readonly string[], options?: RunOptions) => {
    const output = await attempt(program, args, options);
    if (output.code === 0) return output;
    throw new Error(`${program} ${args.join(" ")}: exit ${output.code}\n${output.stderr}`);
  };
  const createStore = () => storeIn(temporary("store"));
  const store = createStore();
  mkdirSync(join(directory, "conf"));
  const createKey = async (name: string) => {
    const file = temporary(`${name}-secret-key`);
    const secret = await run("nix", ["key", "generate-secret", "--key-name", name]);
    writeFileSync(file, secret.stdout, { mode: 0o600 });
    return file;
  };
  const publicKeyIn = async (file: string) => publicKeyOf(await readFile(file, "utf8"));
  const secretKeyFile = await createKey("world-1");
  const publicKey = await publicKeyIn(secretKeyFile);
  return {
    directory,
    store,
    secretKeyFile,
    publicKey,
    createStore,
    run,
    attempt,
    temporary,
    createKey,
    publicKeyOf: publicKeyIn,
    async build(attribute, args = {}) {
      const expression = join(repositoryRoot(), "test/support/closure.nix");
      const named = Object.entries(args).flatMap(([key, value]) => ["--argstr", key, value]);
      const command = ["--no-out-link", expression, "-A", attribute, ...named];
      return (await run("nix-build", [...command, "--store", store.uri])).stdout.trim();
    },
    async copyToCache(paths, compression) {
      const cache = temporary(`cache-${compression}`);
      const fast = compression === "xz" ? "&compression-level=0&parallel-compression=true" : "";
      const query = `secret-key=${secretKeyFile}&compression=${compression}${fast}`;
      await run("nix", [
        "copy",
        "--store",
        store.uri,
        "--to",
        `file://${cache}?${query}`,
        ...paths,
      ]);
      return cache;
    },
    async substitute(paths, { urls, trustedKeys, into, settings = {}, ...options }) {
      const target = into ?? createStore();
      const named = {
        substituters: urls.join(" "),
        "trusted-public-keys": (trustedKeys ?? [publicKey]).join(" "),
        ...settings,
      };
      const flags = Object.entries(named).flatMap(([key, value]) => ["--option", key, value]);
      await run("nix-store", ["--store", target.uri, "-r", ...paths, ...flags], options);
      return target;
    },
    async pathInfos(uri, paths) {
      const args = ["path-info", "--json", "--recursive", "--store", uri, ...paths];
      const infos: PathInfo[] = JSON.parse((await run("nix", args)).stdout);
      return infos.sort((a, b) => (a.path < b.path ? -1 : 1));
    },
    [Symbol.asyncDispose]: () => removeStores(directory),
  };
}

function storeIn(root: string): NixStore {
  return { root, uri: `local?root=${root}`, fileOf: (storePath) => join(root, storePath) };
}

function environment(directory: string, home: string): Record<string, string> {
  mkdirSync(home, { recursive: true });
  const config = Object.entries(SETTINGS).map(([key, value]) => `${key} = ${value}\n`);
  return {
    PATH: process.env.PATH ?? "/usr/bin:/bin",
    HOME: home,
    XDG_CACHE_HOME: join(home, ".cache"),
    NIX_CONF_DIR: join(directory, "conf"),
    NIX_CONFIG: config.join(""),
    NIX_IGNORE_SYMLINK_STORE: "1",
    TMPDIR: tmpdir(),
  };
}

function execute(
  program: string,
  args: readonly string[],
  options: { cwd: string; env: Record<string, string>; signal?: AbortSignal },
): Promise<Output> {
  const limit = { ...options, maxBuffer: 64 << 20, encoding: "utf8" as const };
  return new Promise((resolve, reject) => {
    const child = execFile(program, args, limit, (error, stdout, stderr) => {
      if (child.exitCode !== null) resolve({ code: child.exitCode, stdout, stderr });
      else reject(error ?? new Error(`${program}: ended by ${child.signalCode}\n${stderr}`));
    });
    child.stdin?.end();
  });
}

/** `name:base64` of the public half: the last 32 of an ed25519 secret key's 64 bytes. */
function publicKeyOf(secretKey: string): string {
  const [name, secret = ""] = secretKey.trim().split(":");
  return `${name}:${Buffer.from(secret, "base64").subarray(32).toString("base64")}`;
}

/** Store directories are read-only: root removes them all the same. */
async function removeStores(directory: string): Promise<void> {
  await rm(directory, { recursive: true, force: true, maxRetries: 3 });
}

/** The fields of a narinfo file in a plain cache. */
export function readNarInfo(cache: string, storePath: string): ReadonlyMap<string, string> {
  const hash = storePath.slice("/nix/store/".length).slice(0, 32);
  const lines = readFileSync(join(cache, `${hash}.narinfo`), "utf8")
    .trim()
    .split("\n");
  return new Map(lines.map((line) => [line.split(": ")[0] ?? "", line.split(": ")[1] ?? ""]));
}
