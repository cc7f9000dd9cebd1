import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { readRange } from "../files/read-range.ts";
import type { DirectContent } from "../services/direct-content.ts";

/** The blobs of a RecentBlobs in the directory `path`. */
export function openDirectContent(path: string): DirectContent {
  return {
    read(digest, range, target) {
      try {
        // Not kept open: what is deleted must give its memory back.
        const file = openSync(join(path, digest.toString("hex")), "r");
        try {
          return readRange(file, range, target) === range.end - range.start;
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
