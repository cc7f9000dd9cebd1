import { EMPTY_DIGEST, type Node, type PathComponent, pathComponentOfText } from "@castore/castore";

/** What a mounted store shows beside store paths: Nix takes a directory for one only with it. */
export const STORE_EXTRAS: readonly (readonly [PathComponent, Node])[] = [
  [pathComponentOfText(".links"), { type: "directory", digest: EMPTY_DIGEST, size: 0 }],
];
