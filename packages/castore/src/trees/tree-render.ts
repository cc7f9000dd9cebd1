import { constants } from "node:fs";
import { chmod, mkdir, open, symlink } from "node:fs/promises";
import { CastoreError } from "../castore-error.ts";
import { createDigestHasher } from "../model/digest.ts";
import type { DirectoryNode, FileNode, Node } from "../model/node.ts";
import type { BlobService } from "../services/blob-service.ts";
import type { DirectoryService } from "../services/directory-service.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import { inParallel } from "../streams/parallel.ts";

const ENTRIES_IN_PARALLEL = 16;

export interface TreeSource {
  readonly blobs: BlobService;
  readonly directories: DirectoryService;
}

/**
 * Writes `node` and all below it to `path`, where nothing may be yet: directories with mode 0555,
 * files with 0444 or 0555. Not durable. Rejects INCOMPLETE where a directory or blob is missing,
 * CORRUPT where a blob is not what its digest says; what was written then stays for the caller to
 * remove.
 */
export async function renderTree(
  node: Node,
  source: TreeSource,
  path: string | Uint8Array,
  options: CallOptions = {},
): Promise<void> {
  const target = typeof path === "string" ? Buffer.from(path) : Buffer.from(path);
  options.signal?.throwIfAborted();
  if (node.type === "symlink") await symlink(Buffer.from(node.target, "latin1"), target);
  else if (node.type === "file") await renderFile(node, source.blobs, target, options);
  else await renderDirectory(node, source, target, options);
}

async function renderDirectory(
  { digest }: DirectoryNode,
  source: TreeSource,
  path: Buffer,
  options: CallOptions,
): Promise<void> {
  const directory = await source.directories.get(digest, options);
  if (directory === undefined) {
    throw new CastoreError("INCOMPLETE", `directory ${digest} is missing`);
  }
  await mkdir(path);
  // Directories one by one: the parallel work of nested ones would multiply.
  const leaves = directory.entries.filter(({ node }) => node.type !== "directory");
  const nested = directory.entries.filter(({ node }) => node.type === "directory");
  const render = ({ name, node }: (typeof leaves)[number], signal?: AbortSignal) =>
    renderTree(node, source, Buffer.concat([path, Buffer.from(`/${name}`, "latin1")]), { signal });
  for await (const _ of inParallel(leaves, ENTRIES_IN_PARALLEL, render, options));
  for (const entry of nested) await render(entry, options.signal);
  await chmod(path, 0o555);
}

async function renderFile(
  { digest, size, executable }: FileNode,
  blobs: BlobService,
  path: Buffer,
  options: CallOptions,
): Promise<void> {
  const reader = await blobs.open(digest, options);
  if (reader === undefined) throw new CastoreError("INCOMPLETE", `blob ${digest} is missing`);
  try {
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL;
    await using file = await open(path, flags, 0o600);
    const hasher = createDigestHasher();
    let written = 0;
    for await (const piece of reader.stream(0, undefined, options)) {
      hasher.update(piece);
      await file.writeFile(piece);
      written += piece.byteLength;
    }
    const got = hasher.digest();
    if (got !== digest || written !== size) {
      const message = `blob ${digest} of ${size} bytes: got ${written} with digest ${got}`;
      throw new CastoreError("CORRUPT", message);
    }
    await file.chmod(executable ? 0o555 : 0o444);
  } finally {
    await reader.close();
  }
}
