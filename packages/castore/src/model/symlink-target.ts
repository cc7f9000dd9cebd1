import { CastoreError } from "../castore-error.ts";
import { type ByteString, byteStringOf } from "./byte-string.ts";

declare const symlinkTargetBrand: unique symbol;

/** Where a symlink points: 1..4095 bytes without NUL; otherwise free. */
export type SymlinkTarget = ByteString & { readonly [symlinkTargetBrand]: true };

/** Most bytes in a symlink target. */
export const SYMLINK_TARGET_BYTES_MAX = 4095;

/** The rule that a target breaks; checked in this order (docs/format.md, Symlink targets). */
export type SymlinkTargetFault = "Empty" | "TooLong" | "Null";

/** Which rule `target` breaks, or undefined where it is a valid target. */
export function symlinkTargetFault(target: string): SymlinkTargetFault | undefined {
  if (target.length === 0) return "Empty";
  if (target.length > SYMLINK_TARGET_BYTES_MAX) return "TooLong";
  if (target.includes("\0")) return "Null";
  return undefined;
}

/** The target made of `bytes`. Rejects INVALID. */
export function parseSymlinkTarget(bytes: Uint8Array | ByteString): SymlinkTarget {
  const target = typeof bytes === "string" ? bytes : byteStringOf(bytes);
  const fault = symlinkTargetFault(target);
  if (fault !== undefined) {
    throw new CastoreError("INVALID", `symlink target ${JSON.stringify(target)}: ${fault}`);
  }
  return target as SymlinkTarget;
}
