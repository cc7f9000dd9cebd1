import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { lstat, readdir, readlink } from "node:fs/promises";

/**
 * What differs between two trees, one line each: names (any bytes), kinds, modes, times of
 * modification, sizes, contents and link targets. Empty means equal.
 */
export async function compareTrees(left: string, right: string): Promise<readonly string[]> {
  const [a, b] = await Promise.all([describeTree(left), describeTree(right)]);
  const paths = [...new Set([...a.keys(), ...b.keys()])].sort();
  return paths
    .filter((path) => a.get(path) !== b.get(path))
    .map((path) => `${path || "."}: ${a.get(path) ?? "absent"} != ${b.get(path) ?? "absent"}`);
}

/** Keys are paths below `root` as latin1, values describe what is there. */
export async function describeTree(root: string): Promise<ReadonlyMap<string, string>> {
  const found = new Map<string, string>();
  await visit(Buffer.from(root), "", found);
  return found;
}

async function visit(at: Buffer, path: string, found: Map<string, string>): Promise<void> {
  const status = await lstat(at);
  const mode = (status.mode & 0o7777).toString(8);
  const time = `mtime ${Math.floor(status.mtimeMs / 1000)}`;
  if (status.isSymbolicLink()) {
    const target = await readlink(at, "buffer");
    found.set(path, `link ${time} to ${target.toString("latin1")}`);
  } else if (status.isDirectory()) {
    found.set(path, `directory ${mode} ${time}`);
    for (const name of await readdir(at, "buffer")) {
      const below = `${path}${path === "" ? "" : "/"}${name.toString("latin1")}`;
      await visit(Buffer.concat([at, Buffer.from("/"), name]), below, found);
    }
  } else {
    found.set(path, `file ${mode} ${time} ${status.size} ${await digestFile(at)}`);
  }
}

async function digestFile(path: Buffer): Promise<string> {
  const hash = createHash("sha256");
  for await (const piece of createReadStream(path)) hash.update(piece);
  return hash.digest("hex");
}
