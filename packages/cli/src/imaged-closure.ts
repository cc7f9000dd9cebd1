import { readFile } from "node:fs/promises";
import {
  messageOf,
  type PathComponent,
  pathComponentOfText,
  zstdDecompress,
} from "@castore/castore";
import {
  type ImagedPath,
  type ImageKeys,
  openClosureImage,
  type PathInfo,
  parseStorePath,
  type StorePath,
} from "@castore/nar-bridge";
import { logLine } from "./run-server.ts";

/** Most bytes of one: some 300,000 files. */
const IMAGE_BYTES_MAX = 64 << 20;

/** A closure of which all metadata are at hand, verified. */
export interface ImagedClosure {
  readonly paths: readonly ImagedPath[];
  readonly names: readonly PathComponent[];
  readonly find: (storePath: StorePath) => PathInfo | undefined;
  /** The file system that shows it. */
  readonly image: Uint8Array;
}

/**
 * The closure of `wanted` from a file of `castore netboot serve`. Undefined where that does not
 * say it, or nobody who is trusted vouches for it: the log says why.
 */
export async function openImagedClosure(
  file: string,
  wanted: readonly PathComponent[],
  keys: ImageKeys,
): Promise<ImagedClosure | undefined> {
  try {
    const bytes = zstdDecompress(await readFile(file), IMAGE_BYTES_MAX);
    const { paths, image } = openClosureImage(bytes, wanted.map(parseStorePath), keys);
    const byStorePath = new Map(paths.map(({ pathInfo }) => [pathInfo.storePath, pathInfo]));
    return {
      paths,
      names: paths.map(({ pathInfo }) => pathComponentOfText(pathInfo.storePath)),
      find: (storePath) => byStorePath.get(storePath),
      image,
    };
  } catch (error) {
    logLine(`--image ${file}: is not used: ${messageOf(error)}`);
    return undefined;
  }
}
