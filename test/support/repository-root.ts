import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The checkout's directory, found from here as from where benchmarks are compiled to. */
export function repositoryRoot(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, "package-lock.json"))) {
    if (directory === dirname(directory)) throw new Error("not in a checkout of the repository");
    directory = dirname(directory);
  }
  return directory;
}
