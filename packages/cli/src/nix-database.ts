import { spawn } from "node:child_process";
import { mkdir, mkdtemp, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CastoreError, isCastoreError, type PathComponent, systemCodeOf } from "@castore/castore";
import {
  formatStorePath,
  type Log,
  type NarInfo,
  nixHashBytes,
  parseStorePath,
  type StorePath,
} from "@castore/nar-bridge";

/** What Nix registers of a path. */
export type RegisteredPath = Pick<
  NarInfo,
  "storePath" | "storeDir" | "narHash" | "narSize" | "deriver" | "references"
>;

export interface NixDatabaseOptions {
  /** Nix's NIX_STATE_DIR: its database lies in db/, roots of its garbage collector in gcroots/. */
  readonly stateDir: string;
  /** Of the directory below gcroots/ that holds the roots of this mount. */
  readonly name: string;
  /** What is known of a path, wherever it is; undefined where it is nowhere. */
  readonly find: (storePath: StorePath) => Promise<RegisteredPath | undefined>;
  readonly log: Log;
}

/**
 * Tells Nix of paths that a mount shows: they and all that they refer to are valid, and they are
 * roots, without which the next `nix-store --gc` deletes them. Uses the nix-store that is in PATH.
 */
export class NixDatabase {
  readonly #options: NixDatabaseOptions;
  readonly #known = new Set<StorePath>();
  #registering: Promise<void> = Promise.resolve();

  constructor(options: NixDatabaseOptions) {
    this.#options = options;
  }

  /**
   * Resolves once all `names` are registered; what is not known to its last reference is left out
   * and logged. Rejects UNSUPPORTED where nix-store cannot be run, UNAVAILABLE where it fails.
   */
  register(names: readonly PathComponent[]): Promise<void> {
    const registered = this.#registering.then(() => this.#register(names));
    this.#registering = registered.catch(() => {});
    return registered;
  }

  /** Takes the roots away; what is not kept by others goes with Nix's next garbage collection. */
  async close(): Promise<void> {
    await this.#registering;
    await rm(this.#rootsDirectory, { recursive: true, force: true });
  }

  get #rootsDirectory(): string {
    const { stateDir, name } = this.#options;
    return join(stateDir, "gcroots", name);
  }

  async #register(names: readonly PathComponent[]): Promise<void> {
    const found = new Map<StorePath, RegisteredPath>();
    const roots: RegisteredPath[] = [];
    for (const name of names) {
      const closure = await this.#closure(parseStorePath(name));
      const [root] = closure;
      if (root === undefined) continue;
      roots.push(root);
      for (const narInfo of closure) found.set(narInfo.storePath, narInfo);
    }
    const added = [...found.values()].filter(({ storePath }) => !this.#known.has(storePath));
    if (added.length > 0) await this.#load(added.map(registrationOf).join(""));
    for (const { storePath } of added) this.#known.add(storePath);
    await mkdir(this.#rootsDirectory, { recursive: true });
    for (const { storePath, storeDir } of roots) {
      const link = join(this.#rootsDirectory, storePath);
      await symlink(formatStorePath(storePath, storeDir), link).catch((error: unknown) => {
        if (systemCodeOf(error) !== "EEXIST") throw error;
      });
    }
  }

  /** The path first; empty where something is not known. */
  async #closure(storePath: StorePath): Promise<RegisteredPath[]> {
    const found: RegisteredPath[] = [];
    const seen = new Set([storePath]);
    for (const next of seen) {
      const narInfo = await this.#options.find(next).catch((error: unknown) => {
        if (!isCastoreError(error)) throw error;
        this.#options.log(error.message);
        return undefined;
      });
      if (narInfo === undefined) {
        this.#options.log(`${storePath}: is not registered, nothing is known of ${next}`);
        return [];
      }
      found.push(narInfo);
      for (const reference of narInfo.references) seen.add(reference);
    }
    return found;
  }

  async #load(registration: string): Promise<void> {
    // Nix looks at its store directory only to see that it is one.
    const real = await mkdtemp(join(tmpdir(), "castore-nix-"));
    try {
      const { stateDir } = this.#options;
      const query = new URLSearchParams({ real, state: stateDir, log: join(stateDir, "log") });
      await run("nix-store", ["--store", `local?${query}`, "--load-db"], registration);
    } finally {
      await rm(real, { recursive: true, force: true });
    }
  }
}

/** One path in the format of `nix-store --dump-db`. */
export function registrationOf(narInfo: RegisteredPath): string {
  const { storePath, storeDir, narHash, narSize, deriver, references } = narInfo;
  const path = (of: StorePath): string => formatStorePath(of, storeDir);
  const lines = [
    path(storePath),
    nixHashBytes(narHash).toString("hex"),
    `${narSize}`,
    deriver === undefined ? "" : path(deriver),
    `${references.length}`,
    ...references.map(path),
  ];
  return lines.map((line) => `${line}\n`).join("");
}

function run(program: string, args: readonly string[], input: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ["pipe", "ignore", "pipe"] });
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr = `${stderr}${text}`.slice(-4096);
    });
    child.on("error", (cause) => {
      reject(new CastoreError("UNSUPPORTED", `--nix-db: ${program} cannot be run`, { cause }));
    });
    child.on("close", (status) => {
      if (status === 0) resolve();
      else reject(new CastoreError("UNAVAILABLE", `${program} --load-db: ${stderr.trim()}`));
    });
    child.stdin.on("error", () => {}); // its exit tells more
    child.stdin.end(input);
  });
}
