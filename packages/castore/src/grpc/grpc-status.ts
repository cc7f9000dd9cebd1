import type { status as Status, StatusObject } from "@grpc/grpc-js";
import { CASTORE_ERROR_CODES, CastoreError, type CastoreErrorCode } from "../castore-error.ts";
import { grpcStatusName, grpcStatus as status } from "./grpc-status-codes.ts";
import { grpcJs } from "./lazy-grpc.ts";

/** The status that a server answers for each code, where the method has no rule of its own. */
const STATUS_OF_CODE: Readonly<Record<CastoreErrorCode, Status>> = {
  INVALID: status.INVALID_ARGUMENT,
  CORRUPT: status.DATA_LOSS,
  INCOMPLETE: status.FAILED_PRECONDITION,
  UNAVAILABLE: status.UNAVAILABLE,
  DENIED: status.PERMISSION_DENIED,
  EXHAUSTED: status.RESOURCE_EXHAUSTED,
  READ_ONLY: status.PERMISSION_DENIED,
  UNSUPPORTED: status.UNIMPLEMENTED,
  CLOSED: status.FAILED_PRECONDITION,
};

/**
 * The code that a client makes of each status, where the server does not name it. snix answers
 * INTERNAL and UNKNOWN for whatever its backend fails with.
 */
const CODE_OF_STATUS: Readonly<Record<Status, CastoreErrorCode>> = {
  [status.OK]: "CORRUPT",
  [status.CANCELLED]: "UNAVAILABLE",
  [status.UNKNOWN]: "UNAVAILABLE",
  [status.INVALID_ARGUMENT]: "INVALID",
  [status.DEADLINE_EXCEEDED]: "UNAVAILABLE",
  [status.NOT_FOUND]: "INCOMPLETE",
  [status.ALREADY_EXISTS]: "INVALID",
  [status.PERMISSION_DENIED]: "DENIED",
  [status.RESOURCE_EXHAUSTED]: "EXHAUSTED",
  [status.FAILED_PRECONDITION]: "INCOMPLETE",
  [status.ABORTED]: "UNAVAILABLE",
  [status.OUT_OF_RANGE]: "CORRUPT",
  [status.UNIMPLEMENTED]: "UNSUPPORTED",
  [status.INTERNAL]: "UNAVAILABLE",
  [status.UNAVAILABLE]: "UNAVAILABLE",
  [status.DATA_LOSS]: "CORRUPT",
  [status.UNAUTHENTICATED]: "DENIED",
};

/** Names the exact code beside the status, from our servers to our clients. */
const CODE_TRAILER = "castore-code";

/** Ends a call with a status of the method's own; only handlers of a server throw it. */
export class GrpcStatusError extends Error {
  readonly status: Status;

  constructor(code: Status, details: string, options?: { readonly cause?: unknown }) {
    super(details, options);
    this.name = "GrpcStatusError";
    this.status = code;
  }
}

/** How a server answers `error`. What is no CastoreError is a bug, and says nothing outside. */
export function grpcStatusOf(error: unknown): Pick<StatusObject, "code" | "details" | "metadata"> {
  const metadata = new (grpcJs().Metadata)();
  const coded = error instanceof GrpcStatusError ? error.cause : error;
  if (coded instanceof CastoreError) metadata.set(CODE_TRAILER, coded.code);
  if (error instanceof GrpcStatusError) {
    return { code: error.status, details: error.message, metadata };
  }
  if (error instanceof CastoreError) {
    return { code: STATUS_OF_CODE[error.code], details: error.message, metadata };
  }
  return { code: status.INTERNAL, details: "internal error", metadata };
}

/** Whether a client's call failed because what it asked for is absent. */
export function isGrpcNotFound(error: unknown): boolean {
  return hasGrpcStatus(error, status.NOT_FOUND);
}

/** Whether a client's call failed with this status. */
export function hasGrpcStatus(error: unknown, code: Status): boolean {
  return error instanceof CastoreError && isServiceError(error.cause) && error.cause.code === code;
}

/** What a client throws for a call to `path` at `target` that failed with `error`. */
export function castoreErrorOfGrpc(error: unknown, path: string, target: string): unknown {
  if (!isServiceError(error)) return error;
  const named = error.metadata.get(CODE_TRAILER)[0];
  const code = CASTORE_ERROR_CODES.find((it) => it === named) ?? CODE_OF_STATUS[error.code];
  const message = `${target}${path}: ${grpcStatusName(error.code)} ${error.details}`;
  return new CastoreError(code, message, { cause: error });
}

function isServiceError(error: unknown): error is Error & StatusObject {
  return (
    error instanceof Error &&
    "code" in error &&
    typeof error.code === "number" &&
    "metadata" in error &&
    error.metadata instanceof grpcJs().Metadata
  );
}
