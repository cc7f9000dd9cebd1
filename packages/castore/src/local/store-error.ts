import { CastoreError, type CastoreErrorCode, messageOf } from "../castore-error.ts";

/** LMDB's own codes that say more than "it failed". */
const MDB_CORRUPT = new Set([-30797, -30796, -30793, -30782]);
const MDB_FULL = new Set([-30792, -30791, -30790, -30788, -30787, -30786, -30785]);

const ERRNO_CODES: Readonly<Record<string, CastoreErrorCode>> = {
  ENOSPC: "EXHAUSTED",
  EDQUOT: "EXHAUSTED",
  EFBIG: "EXHAUSTED",
  EMFILE: "EXHAUSTED",
  ENFILE: "EXHAUSTED",
  EROFS: "READ_ONLY",
  EACCES: "DENIED",
  EPERM: "DENIED",
};
const ERRNO_NUMBERS: Readonly<Record<number, string>> = {
  1: "EPERM",
  13: "EACCES",
  24: "EMFILE",
  27: "EFBIG",
  28: "ENOSPC",
  30: "EROFS",
  122: "EDQUOT",
};

/**
 * What a failed file or LMDB operation means to the caller, naming `what` failed. A CastoreError
 * passes unchanged.
 */
export function storeError(what: string, cause: unknown): CastoreError {
  if (cause instanceof CastoreError) return cause;
  const message = messageOf(cause);
  return new CastoreError(codeOf(cause), `${what}: ${message}`, { cause });
}

function codeOf(cause: unknown): CastoreErrorCode {
  if (!(cause instanceof Error) || !("code" in cause)) return "UNAVAILABLE";
  const { code } = cause;
  if (typeof code === "string") return ERRNO_CODES[code] ?? "UNAVAILABLE";
  if (typeof code !== "number") return "UNAVAILABLE";
  if (MDB_CORRUPT.has(code)) return "CORRUPT";
  if (MDB_FULL.has(code)) return "EXHAUSTED";
  return ERRNO_CODES[ERRNO_NUMBERS[code] ?? ""] ?? "UNAVAILABLE";
}
