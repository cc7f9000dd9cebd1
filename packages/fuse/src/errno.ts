import { CastoreError, type CastoreErrorCode } from "@castore/castore";
import { ERRNO } from "./protocol.ts";

const ERRNO_OF_CODE: Readonly<Record<CastoreErrorCode, number>> = {
  INVALID: ERRNO.EINVAL,
  CORRUPT: ERRNO.EIO,
  INCOMPLETE: ERRNO.EIO,
  UNAVAILABLE: ERRNO.EIO,
  DENIED: ERRNO.EACCES,
  EXHAUSTED: ERRNO.ENOSPC,
  READ_ONLY: ERRNO.EROFS,
  UNSUPPORTED: ERRNO.EOPNOTSUPP,
  CLOSED: ERRNO.EIO,
};

/** The error number that a program sees for `error`; EIO for what is not a CastoreError. */
export function errnoOf(error: unknown): number {
  return error instanceof CastoreError ? ERRNO_OF_CODE[error.code] : ERRNO.EIO;
}
