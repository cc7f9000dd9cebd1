import { CastoreError } from "../castore-error.ts";
import { type ByteString, byteStringOf, byteStringOfText } from "./byte-string.ts";

declare const pathComponentBrand: unique symbol;

/** The name of an entry in a directory: 1..255 bytes, no NUL, no "/", not "." or "..". */
export type PathComponent = ByteString & { readonly [pathComponentBrand]: true };

/** Most bytes in a name. */
export const PATH_COMPONENT_BYTES_MAX = 255;

/** The rule that a name breaks; checked in this order (docs/format.md, Names). */
export type PathComponentFault = "Empty" | "Parent" | "CurDir" | "TooLong" | "Null" | "Slashes";

/** Which rule `name` breaks, or undefined where it is a valid name. */
export function pathComponentFault(name: string): PathComponentFault | undefined {
  if (name.length === 0) return "Empty";
  if (name === "..") return "Parent";
  if (name === ".") return "CurDir";
  if (name.length > PATH_COMPONENT_BYTES_MAX) return "TooLong";
  if (name.includes("\0")) return "Null";
  if (name.includes("/")) return "Slashes";
  return undefined;
}

/** The name made of `bytes`. Rejects INVALID. */
export function parsePathComponent(bytes: Uint8Array | ByteString): PathComponent {
  const name = typeof bytes === "string" ? bytes : byteStringOf(bytes);
  const fault = pathComponentFault(name);
  if (fault !== undefined) {
    throw new CastoreError("INVALID", `name ${JSON.stringify(name)}: ${fault}`);
  }
  return name as PathComponent;
}

/** The name whose bytes are the UTF-8 encoding of `text`. Rejects INVALID. */
export function pathComponentOfText(text: string): PathComponent {
  return parsePathComponent(byteStringOfText(text));
}
