import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { CastoreError, systemCodeOf } from "@castore/castore";

/** What the configuration of an installed Nix says of substituters. */
export interface NixConfig {
  readonly substituters: readonly string[];
  /** What users who are not trusted may choose from, beside `substituters`. */
  readonly trustedSubstituters: readonly string[];
  /** `NAME:BASE64`. */
  readonly trustedPublicKeys: readonly string[];
  /** Where the netrc is, if there is one. */
  readonly netrcFile: string;
}

/** Most files that one configuration may include, and most characters of each. */
export const NIX_CONFIG_FILES_MAX = 64;
export const NIX_CONFIG_LENGTH_MAX = 1 << 20;

const LISTS = ["substituters", "trusted-substituters", "trusted-public-keys"] as const;
type ListName = (typeof LISTS)[number];

/** Names that Nix had for the settings before its version 2. */
const OLD_NAMES: { readonly [name: string]: string } = {
  "binary-caches": "substituters",
  "trusted-binary-caches": "trusted-substituters",
  "binary-cache-public-keys": "trusted-public-keys",
};

/**
 * Reads what Nix would read in `environment`: NIX_CONF_DIR/nix.conf (else /etc/nix), the user's
 * files (NIX_USER_CONF_FILES, else those of the XDG directories), NIX_CONFIG, and what they
 * include. A setting replaces what earlier ones said; with `extra-` before it, it adds. Files that
 * are not there are passed over. Rejects INVALID, naming file and line, for a line that Nix would
 * refuse, and for an `include` of a file that is not there; EXHAUSTED beyond the limits.
 */
export async function readNixConfig(environment: NodeJS.ProcessEnv): Promise<NixConfig> {
  const directory = environment.NIX_CONF_DIR || "/etc/nix";
  const reader = new ConfigReader(join(directory, "netrc"));
  for (const file of [join(directory, "nix.conf"), ...userFiles(environment)]) {
    await reader.readFile(file);
  }
  await reader.apply(environment.NIX_CONFIG ?? "", "NIX_CONFIG", process.cwd());
  return reader.config;
}

/** The user's files, the one that counts most last. */
function userFiles(environment: NodeJS.ProcessEnv): readonly string[] {
  const named = environment.NIX_USER_CONF_FILES;
  if (named !== undefined) return named.split(":").filter(Boolean).reverse();
  const home = environment.HOME || homedir();
  const directories = [
    environment.XDG_CONFIG_HOME || join(home, ".config"),
    ...(environment.XDG_CONFIG_DIRS || "/etc/xdg").split(":").filter(Boolean),
  ];
  return directories.map((directory) => join(directory, "nix", "nix.conf")).reverse();
}

class ConfigReader {
  readonly #lists: Record<ListName, string[]> = {
    substituters: ["https://cache.nixos.org/"],
    "trusted-substituters": [],
    "trusted-public-keys": ["cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="],
  };
  #netrcFile: string;
  #files = 0;

  constructor(netrcFile: string) {
    this.#netrcFile = netrcFile;
  }

  get config(): NixConfig {
    return {
      substituters: this.#lists.substituters,
      trustedSubstituters: this.#lists["trusted-substituters"],
      trustedPublicKeys: this.#lists["trusted-public-keys"],
      netrcFile: this.#netrcFile,
    };
  }

  /** Applies the file at `path`; false where it is not there. */
  async readFile(path: string): Promise<boolean> {
    if (++this.#files > NIX_CONFIG_FILES_MAX) {
      throw new CastoreError("EXHAUSTED", `${path}: the limit is ${NIX_CONFIG_FILES_MAX} files`);
    }
    const text = await readIfThere(path);
    if (text === undefined) return false;
    await this.apply(text, path, dirname(path));
    return true;
  }

  /** Applies the lines of `text`, which relative paths in it are relative to `directory`. */
  async apply(text: string, source: string, directory: string): Promise<void> {
    if (text.length > NIX_CONFIG_LENGTH_MAX) {
      throw new CastoreError("EXHAUSTED", `${source}: over ${NIX_CONFIG_LENGTH_MAX} characters`);
    }
    for (const [index, line] of text.split("\n").entries()) {
      const words = (line.split("#")[0] ?? "").split(/[ \t\r]+/).filter(Boolean);
      const [name, second, ...values] = words;
      if (name === undefined) continue;
      const where = `${source}:${index + 1}`;
      if (name === "include" || name === "!include") {
        const path = second !== undefined && values.length === 0 ? second : undefined;
        if (path === undefined) throw invalid(where, `want ${name} PATH`);
        const found = await this.readFile(resolve(directory, path));
        if (!found && name === "include") throw invalid(where, `${path} is not there`);
      } else if (second === "=") {
        this.#set(name, values);
      } else {
        throw invalid(where, "want NAME = VALUE");
      }
    }
  }

  #set(name: string, values: readonly string[]): void {
    if (name === "netrc-file" && values.length > 0) this.#netrcFile = values.join(" ");
    const extra = name.startsWith("extra-");
    const plain = extra ? name.slice("extra-".length) : name;
    const list = LISTS.find((known) => known === (OLD_NAMES[plain] ?? plain));
    if (list === undefined) return;
    this.#lists[list] = extra ? [...new Set([...this.#lists[list], ...values])] : [...values];
  }
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    const code = systemCodeOf(cause);
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw new CastoreError("DENIED", `${path}: cannot be read`, { cause });
  }
}

function invalid(where: string, fault: string): CastoreError {
  return new CastoreError("INVALID", `${where}: ${fault}`);
}
