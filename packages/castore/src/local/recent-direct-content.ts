import { closeSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import type { DirectContent, DirectRange } from "../services/direct-content.ts";

/** The blobs of a RecentBlobs in the directory `path`. */
export function openDirectContent(path: string): DirectContent {
  return {
    read(digest, range, target) {
      try {
        // Not kept open: what is deleted must give its memory back.
        const file = openSync(join(path, digest.toString("hex")), "r");
        try {
          return isRead(file, range, target);
        } finally {
          closeSync(file);
        }
      } catch {
        return false; // absent, or a fault that shows again where the blob is opened properly
      }
    },
    descriptor: () => undefined,
    close() {},
  };
}

function isRead(file: number, { start, end, at }: DirectRange, target: Buffer): boolean {
  for (let position = start; position < end; ) {
    const count = readSync(file, target, at + position - start, end - position, position);
    if (count === 0) return false;
    position += count;
  }
  return true;
}
