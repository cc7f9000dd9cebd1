import { readFile } from "node:fs/promises";
import { CastoreError } from "@castore/castore";

/** What each of `files` holds. Rejects INVALID for one that cannot be read. */
export async function readKeys(files: readonly string[] = []): Promise<string[]> {
  return await Promise.all(files.map(async (file) => (await readSecret(file)).trim()));
}

export async function readSecret(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (cause) {
    throw new CastoreError("INVALID", `${file}: cannot be read: ${String(cause)}`, { cause });
  }
}
