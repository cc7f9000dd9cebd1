import {
  CastoreError,
  type Directory,
  directoryOf,
  EMPTY_DIGEST,
  type FileNode,
  type PathComponent,
  parseDigest,
  pathComponentOfText,
  type RootNode,
} from "@castore/castore";
import { buildErofsImage } from "./erofs-image.ts";
import type { MountOptions } from "./mount.ts";

/** Files up to this size lie in the image if they are at hand; a local store keeps them inline. */
const INLINE_BYTES_MAX = 4096;

export interface KernelImageOptions
  extends Pick<MountOptions, "roots" | "directories" | "blobs" | "extraRoots"> {
  /** What to show, with all that it needs. */
  readonly names: readonly PathComponent[];
}

/**
 * The image that `mountKernel` mounts: all metadata of `names` and what they need, which are held,
 * and the small files of those that are at hand. Needs the directories of all of them. Equal roots
 * give equal bytes. Rejects INCOMPLETE where something is absent, EXHAUSTED above 2 GiB.
 */
export async function buildKernelImage(options: KernelImageOptions): Promise<Buffer> {
  const { roots, directories, extraRoots = [] } = options;
  const names = await roots.closure(options.names);
  await roots.hold(names);
  const found: (readonly [PathComponent, RootNode])[] = [];
  for (const [name, node] of extraRoots) found.push([name, { node, lazy: false, final: true }]);
  for (const name of names) {
    const root = await roots.get(name);
    if (root === undefined) throw new CastoreError("INCOMPLETE", `root ${name}: absent`);
    found.push([name, root]);
  }
  const isLazy = found.some(([, root]) => root.lazy);
  const entries = found.map(([name, { node }]) => [name, node] as const);
  return buildErofsImage(entries, {
    async directory(digest): Promise<Directory> {
      if (digest === EMPTY_DIGEST) return directoryOf([]);
      const directory = await directories.get(digest);
      if (directory !== undefined) return directory;
      throw new CastoreError("INCOMPLETE", `directory ${digest}: absent`);
    },
    async inline(file) {
      return !isLazy && file.size <= INLINE_BYTES_MAX ? readBlob(file, options) : undefined;
    },
    objectPath: (file) => `/${objectName(file)}`,
  });
}

async function readBlob(file: FileNode, { blobs }: KernelImageOptions): Promise<Uint8Array> {
  const reader = await blobs.open(file.digest);
  if (reader === undefined) throw new CastoreError("INCOMPLETE", `blob ${file.digest}: absent`);
  try {
    const pieces: Uint8Array[] = [];
    for await (const piece of reader.stream()) pieces.push(piece);
    return Buffer.concat(pieces);
  } finally {
    await reader.close();
  }
}

/** DIGEST-SIZE: where an image says that a file's contents lie. */
export function objectName({ digest, size }: Pick<FileNode, "digest" | "size">): PathComponent {
  return pathComponentOfText(`${digest}-${size}`);
}

/** The contents that a name stands for; undefined where no image says it. */
export function objectOf(name: PathComponent): RootNode | undefined {
  const [, digest, size] = /^([0-9a-f]{64})-([1-9][0-9]{0,15})$/.exec(name) ?? [];
  if (digest === undefined || !Number.isSafeInteger(Number(size))) return undefined;
  const object = { digest: parseDigest(digest), size: Number(size), executable: false };
  return { node: { type: "file", ...object }, lazy: false, final: true };
}
