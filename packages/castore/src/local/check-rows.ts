import { DIGEST_BYTES } from "../model/digest.ts";
import { decodeChunkList, decodeChunkPlace } from "./chunk-rows.ts";
import { decodePin } from "./pin-row.ts";
import { decodeSeed } from "./seed-rows.ts";
import type { StoreIndex } from "./store-index.ts";
import { decodeLease } from "./store-leases.ts";

/** Rows that tell where something is or who needs it: without one less is found, or more kept. */
export const CHECKED_ROWS = ["chunks", "blob-chunks", "seeds", "pins", "leases"] as const;

/** What is wrong with a row; undefined where nothing shows. */
export function rowFault(
  { rows }: StoreIndex,
  kind: (typeof CHECKED_ROWS)[number],
  key: Buffer,
  row: Buffer,
): string | undefined {
  switch (kind) {
    case "chunks":
      if (decodeChunkPlace(row) === undefined) return UNREADABLE;
      if (rows.blobs.doesExist(key.subarray(DIGEST_BYTES))) return undefined;
      return "the chunk's blob is not there";
    case "blob-chunks":
      return decodeChunkList(key, row) === undefined ? UNREADABLE : undefined;
    case "seeds":
      return decodeSeed(row) === undefined ? UNREADABLE : undefined;
    case "pins":
      return faultOf(() => decodePin(key.toString("latin1"), row));
    case "leases":
      return faultOf(() => decodeLease(key.toString("latin1"), row));
  }
}

const UNREADABLE = "the row cannot be read";

function faultOf(decode: () => unknown): string | undefined {
  try {
    decode();
    return undefined;
  } catch {
    return UNREADABLE;
  }
}
