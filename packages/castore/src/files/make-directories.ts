import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { systemCodeOf } from "../castore-error.ts";

/**
 * Makes `path` and what is missing above it; resolves with what was made, outermost first. A file
 * in the place of `path` is for the caller to find. Rejects as mkdir does otherwise. Node's own
 * `recursive` never ends below a directory that takes no entries and says ENOENT, such as /proc.
 */
export async function makeDirectories(path: string): Promise<string[]> {
  const parent = dirname(path);
  try {
    return await makeDirectory(path);
  } catch (error) {
    if (parent === path || systemCodeOf(error) !== "ENOENT") throw error;
  }
  const above = await makeDirectories(parent);
  return [...above, ...(await makeDirectory(path))];
}

async function makeDirectory(path: string): Promise<string[]> {
  try {
    await mkdir(path);
    return [path];
  } catch (error) {
    if (systemCodeOf(error) === "EEXIST") return [];
    throw error;
  }
}
