import { existsSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { repositoryRoot } from "../test/support/repository-root.ts";
import { once } from "./benchmark.ts";

/** A directory below .cache/ that stays for the next run, as making it takes minutes. */
export interface Kept {
  readonly directory: string;
  /** Makes it, unless an earlier run did that to the end. */
  readonly prepare: () => Promise<void>;
}

export function kept(name: string, make: (directory: string) => Promise<void>): Kept {
  const directory = join(repositoryRoot(), ".cache", name);
  const prepare = once(async () => {
    if (existsSync(directory)) return;
    const unfinished = `${directory}.unfinished`;
    await rm(unfinished, { recursive: true, force: true });
    await mkdir(unfinished, { recursive: true });
    await make(unfinished);
    await rename(unfinished, directory);
  });
  return { directory, prepare };
}
