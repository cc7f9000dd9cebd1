/** The closed set of error codes; docs/operations.md says what each means to a user. */
export const CASTORE_ERROR_CODES = [
  /** The caller's bytes are malformed. */
  "INVALID",
  /** Bytes do not match the digest, hash or size they were asked for under. */
  "CORRUPT",
  /** A reference dangles: something that must exist is missing. */
  "INCOMPLETE",
  /** A backend is down or did not answer in time; trying again may help. */
  "UNAVAILABLE",
  /** Not authenticated, or not allowed. */
  "DENIED",
  /** A stated limit was reached, or the disk is full. */
  "EXHAUSTED",
  /** A write to something that only reads. */
  "READ_ONLY",
  /** This service cannot do that. */
  "UNSUPPORTED",
  /** Used after close(). */
  "CLOSED",
] as const;

export type CastoreErrorCode = (typeof CASTORE_ERROR_CODES)[number];

/** Every expected failure. The message names what failed; `cause` keeps what was caught. */
export class CastoreError extends Error {
  readonly code: CastoreErrorCode;

  constructor(code: CastoreErrorCode, message: string, options?: { readonly cause?: unknown }) {
    super(message, options);
    this.name = "CastoreError";
    this.code = code;
  }
}

/** Whether `error` is a CastoreError, optionally with this code. */
export function isCastoreError(error: unknown, code?: CastoreErrorCode): error is CastoreError {
  return error instanceof CastoreError && (code === undefined || error.code === code);
}

/** What was thrown, for people: the message of an Error, anything else as text. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

/** What the system calls a failed call of it, such as ENOENT; undefined of anything else. */
export function systemCodeOf(thrown: unknown): string | undefined {
  if (!(thrown instanceof Error) || !("code" in thrown)) return undefined;
  return typeof thrown.code === "string" ? thrown.code : undefined;
}
