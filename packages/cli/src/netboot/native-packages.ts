import { realpath } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { CastoreError } from "@castore/castore";

/** What a machine's client loads as packages, since they hold native code; the rest is one file. */
export const NATIVE_PACKAGES: readonly {
  readonly name: string;
  /** Which of our packages needs it. */
  readonly of: string;
  /** Whether we do without where it is not installed. */
  readonly optional: boolean;
}[] = [
  { name: "@napi-rs/blake-hash", of: "@castore/castore", optional: false },
  { name: "lmdb", of: "@castore/castore", optional: false },
  { name: "zstd-napi", of: "@castore/castore", optional: true },
  { name: "lzma-native", of: "@castore/nar-bridge", optional: false },
  { name: "node-liblzma", of: "@castore/nar-bridge", optional: true },
  { name: "koffi", of: "@castore/castore", optional: false },
];

export interface InstalledPackage {
  readonly name: string;
  readonly directory: string;
}

/** Those of them that are installed, where they lie. */
export async function installedNativePackages(): Promise<InstalledPackage[]> {
  const found: InstalledPackage[] = [];
  for (const { name, of, optional } of NATIVE_PACKAGES) {
    const owner = dirname(createRequire(import.meta.url).resolve(of));
    const directory = (await findPackage(owner, name))?.target;
    if (directory !== undefined) found.push({ name, directory });
    else if (!optional) throw new CastoreError("INCOMPLETE", `${owner}: ${name} is not installed`);
  }
  return found;
}

/** As Node finds it: the name by which it was found, and where that leads. */
export async function findPackage(
  from: string,
  name: string,
): Promise<{ readonly link: string; readonly target: string } | undefined> {
  for (let directory = from; ; directory = dirname(directory)) {
    const link = join(directory, "node_modules", name);
    const target = await realpath(link).catch(() => undefined);
    if (target !== undefined) return { link, target };
    if (directory === dirname(directory)) return undefined;
  }
}
