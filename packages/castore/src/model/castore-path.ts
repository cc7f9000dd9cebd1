import { CastoreError } from "../castore-error.ts";
import { type ByteString, byteStringOf } from "./byte-string.ts";
import { type PathComponent, parsePathComponent, pathComponentFault } from "./path-component.ts";

declare const castorePathBrand: unique symbol;

/** Names joined by "/", from a root node down; empty for the root itself. */
export type CastorePath = ByteString & { readonly [castorePathBrand]: true };

/** The path made of `bytes`. Rejects INVALID unless every component is a valid name. */
export function parseCastorePath(bytes: Uint8Array | ByteString): CastorePath {
  const path = typeof bytes === "string" ? bytes : byteStringOf(bytes);
  for (const name of path === "" ? [] : path.split("/")) {
    const fault = pathComponentFault(name);
    if (fault !== undefined) throw invalid(path, fault);
  }
  return path as CastorePath;
}

/**
 * The path that people write as `bytes`: "." and empty components count for nothing. ".." is
 * resolved by name, or refused, as `parents` says. Rejects INVALID for an absolute path, for ".."
 * above the root, and for any other component that is no name.
 */
export function castorePathOfHost(
  bytes: Uint8Array | ByteString,
  parents: "refused" | "resolved",
): CastorePath {
  const path = typeof bytes === "string" ? bytes : byteStringOf(bytes);
  if (path.startsWith("/")) throw invalid(path, "absolute");
  const names: string[] = [];
  for (const name of path.split("/")) {
    if (name === "" || name === ".") continue;
    if (name === ".." && parents === "resolved") {
      if (names.pop() === undefined) throw invalid(path, "above the root");
      continue;
    }
    const fault = pathComponentFault(name);
    if (fault !== undefined) throw invalid(path, fault);
    names.push(name);
  }
  return names.join("/") as CastorePath;
}

/** The names of `path`, from the root down. */
export function castorePathNames(path: CastorePath): PathComponent[] {
  return path === "" ? [] : (path.split("/") as PathComponent[]);
}

/** The path of the entry `name` of the directory at `path`. */
export function joinCastorePath(path: CastorePath, name: PathComponent): CastorePath {
  const joined = path === "" ? name : `${path}/${parsePathComponent(name)}`;
  return joined as ByteString as CastorePath;
}

/** The path of the directory that holds what is at `path`; undefined for the root. */
export function castorePathParent(path: CastorePath): CastorePath | undefined {
  if (path === "") return undefined;
  return path.slice(0, Math.max(0, path.lastIndexOf("/"))) as CastorePath;
}

function invalid(path: string, fault: string): CastoreError {
  return new CastoreError("INVALID", `path ${JSON.stringify(path.slice(0, 200))}: ${fault}`);
}
