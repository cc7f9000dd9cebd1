import { CastoreError, type CastoreErrorCode } from "./castore-error.ts";
import { storeError } from "./store-error.ts";
import type { StoreIndex } from "./store-index.ts";
import { applyWrite, type StoreWrite } from "./store-writes.ts";

/** What became of one write: what `applyWrite` returned, or why it was refused. */
export type WriteResult =
  | { readonly value: boolean }
  | { readonly code: CastoreErrorCode; readonly message: string };

/**
 * Commits `writes` in one transaction. One that is refused changes nothing, and the others go
 * ahead; where the commit fails, none happened.
 */
export function commitGroup(index: StoreIndex, writes: readonly StoreWrite[]): WriteResult[] {
  const attempt = (write: StoreWrite): WriteResult => {
    try {
      return { value: applyWrite(index, write) };
    } catch (error) {
      if (!(error instanceof CastoreError)) throw error;
      return { code: error.code, message: error.message };
    }
  };
  try {
    return index.transaction(() => writes.map(attempt));
  } catch (error) {
    const { code, message } = storeError("commit", error);
    return writes.map(() => ({ code, message }));
  }
}
