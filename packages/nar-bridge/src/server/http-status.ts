import { CastoreError, type CastoreErrorCode } from "@castore/castore";

/** The HTTP status that each error code becomes at a server's edge. */
const STATUS: Readonly<Record<CastoreErrorCode, number>> = {
  INVALID: 400,
  CORRUPT: 500,
  INCOMPLETE: 500,
  UNAVAILABLE: 503,
  DENIED: 403,
  EXHAUSTED: 413,
  READ_ONLY: 405,
  UNSUPPORTED: 501,
  CLOSED: 503,
};

/** What an uploader is told differently: what it sent is at fault, not what is stored. */
const UPLOAD_STATUS: Readonly<Partial<Record<CastoreErrorCode, number>>> = {
  CORRUPT: 400,
  INCOMPLETE: 400,
};
const INSUFFICIENT_STORAGE = 507;

/** The status for `error`; 500 for what is not a CastoreError, a bug. */
export function httpStatusOf(error: unknown, direction: "download" | "upload"): number {
  if (!(error instanceof CastoreError)) return 500;
  const upload = direction === "upload" ? UPLOAD_STATUS[error.code] : undefined;
  if (direction === "upload" && isOutOfRoom(error)) return INSUFFICIENT_STORAGE;
  return upload ?? STATUS[error.code];
}

/** Whether it is this machine's room that is exhausted: that has a cause, our limits have none. */
function isOutOfRoom({ code, cause }: CastoreError): boolean {
  return code === "EXHAUSTED" && cause !== undefined;
}
