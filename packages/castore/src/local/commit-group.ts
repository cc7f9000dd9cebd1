import { CastoreError, type CastoreErrorCode } from "../castore-error.ts";
import { INLINE_BYTES_MAX } from "./blob-row.ts";
import { storeError } from "./store-error.ts";
import type { StoreIndex } from "./store-index.ts";
import { applyWrite, type StoreWrite } from "./store-writes.ts";

/** What became of one write: what `applyWrite` returned, or why it was refused. */
export type WriteResult =
  | { readonly value: boolean }
  | { readonly code: CastoreErrorCode; readonly message: string };

/**
 * Commits `writes` in one transaction. One that is refused, or has a fault already, changes
 * nothing, and the others go ahead; where the commit fails, none happened.
 */
export function commitGroup(
  index: StoreIndex,
  writes: readonly StoreWrite[],
  faultOf: (write: StoreWrite) => CastoreError | undefined,
): WriteResult[] {
  const attempt = (write: StoreWrite): WriteResult => {
    try {
      const fault = faultOf(write);
      if (fault !== undefined) throw fault;
      return { value: applyWrite(index, write) };
    } catch (error) {
      if (!(error instanceof CastoreError)) throw error;
      return { code: error.code, message: error.message };
    }
  };
  try {
    return index.transaction(() => writes.map(attempt), roomFor(writes));
  } catch (error) {
    const { code, message } = storeError("commit", error);
    return writes.map(() => ({ code, message }));
  }
}

/** Puts leave so much of the disk free that what deletes can still be written down. */
const PUT_ROOM_BYTES = 16 << 20;
/** Pages that one write may change: a path through each of a few trees. */
const WRITE_ROOM_BYTES = 1 << 14;

function roomFor(writes: readonly StoreWrite[]): number {
  let room = 1 << 18;
  for (const write of writes) {
    const bytes = putBytes(write);
    if (bytes !== undefined) room = Math.max(room, PUT_ROOM_BYTES) + 2 * bytes;
    room += WRITE_ROOM_BYTES;
  }
  return room;
}

/** What the write adds to the index; undefined where it is small, or makes room. */
function putBytes(write: StoreWrite): number | undefined {
  switch (write.type) {
    case "blob":
      return write.size <= INLINE_BYTES_MAX ? write.size : 0;
    case "directories":
      return write.rows.reduce((sum, [, bytes]) => sum + bytes.byteLength, 0);
    case "roots":
      return write.records.reduce((sum, { row }) => sum + row.byteLength, 0);
    case "rows":
      return write.rows.reduce((sum, { row }) => sum + row.byteLength, 0);
    default:
      return undefined;
  }
}
