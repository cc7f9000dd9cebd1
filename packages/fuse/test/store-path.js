import { lstat, readdir, readFile, readlink } from "node:fs/promises";
import {
  digestOf,
  directoryOf,
  encodeDirectory,
  parsePathComponent,
  parseSymlinkTarget,
} from "@castore/castore";

/**
 * Stores what lies at `path` of the host, whose names may hold any byte; its node. Plain
 * JavaScript, as a program without a build step uses it too.
 * @returns {Promise<import("@castore/castore").Node>}
 */
export async function storePath(store, path) {
  const directories = [];
  const node = await storeBelow(store, Buffer.from(path), directories);
  if (directories.length > 0) await store.directories.putClosure(directories);
  return node;
}

async function storeBelow(store, path, directories) {
  const info = await lstat(path);
  if (info.isSymbolicLink()) {
    const target = await readlink(path, { encoding: "buffer" });
    return { type: "symlink", target: parseSymlinkTarget(target) };
  }
  if (!info.isDirectory()) {
    const { digest, size } = await store.blobs.put([await readFile(path)]);
    return { type: "file", digest, size, executable: (info.mode & 0o100) !== 0 };
  }
  const entries = [];
  for (const name of await readdir(path, { encoding: "buffer" })) {
    const child = Buffer.concat([path, Buffer.from("/"), name]);
    const node = await storeBelow(store, child, directories);
    entries.push({ name: parsePathComponent(name), node });
  }
  const directory = directoryOf(entries);
  directories.push(directory);
  const digest = digestOf(encodeDirectory(directory));
  return { type: "directory", digest, size: directory.size };
}
