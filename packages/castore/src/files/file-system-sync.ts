import { close, openSync, statfsSync } from "node:fs";
import { platform, release } from "node:os";
import { getSystemErrorName, promisify } from "node:util";
import { loadKoffi } from "./koffi.ts";

/**
 * Makes durable what is written to a file system from its creation on, all at once: for many files,
 * as it also syncs what others have written there.
 */
export interface FileSystemSync {
  /**
   * Resolves once all that was written before the call is durable. Rejects where any write to the
   * file system has failed since the last call, or since this was made.
   */
  sync(): Promise<void>;
  /** Call it once, when no sync is under way. */
  close(): Promise<void>;
}

/** File systems whose syncfs(2) is known to tell of every write that failed: by their magic. */
const TYPES: ReadonlySet<number> = new Set([
  0xef53, // ext4
  0x58465342, // xfs
  0x9123683e, // btrfs
]);

const closeDescriptor = promisify(close);

/**
 * What begins such a sync for the file system of the directory `path`; undefined where there is no
 * syncfs(2) that tells of all faults.
 */
export async function loadFileSystemSync(
  path: string,
): Promise<(() => FileSystemSync) | undefined> {
  if (!reportsErrors(platform(), release()) || !TYPES.has(statfsSync(path).type)) return undefined;
  const koffi = await loadKoffi();
  if (koffi === undefined) return undefined;
  const syncfs = koffi.load(null).func("syncfs", "int", ["int"]);
  return () => {
    // What failed is told to each descriptor that was open then, once.
    const descriptor = openSync(path, "r");
    return {
      sync: () =>
        new Promise((resolve, reject) => {
          syncfs.async(descriptor, (error: unknown, result: number) => {
            if (result === 0) resolve();
            else reject(error ?? failureOf(koffi.errno()));
          });
        }),
      close: () => closeDescriptor(descriptor),
    };
  };
}

/** From 5.8 on Linux tells of data that was lost, from 5.17 on of all else. */
export function reportsErrors(system: string, version: string): boolean {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return system === "linux" && (major > 5 || (major === 5 && minor >= 17));
}

function failureOf(errno: number): Error {
  const code = getSystemErrorName(-errno);
  return Object.assign(new Error(`${code}: syncfs`), { code });
}
