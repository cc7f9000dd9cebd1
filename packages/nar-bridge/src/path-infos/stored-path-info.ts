import { bytesField, messageField, WireFields } from "@castore/castore";
import { parseStoreDir } from "../nix/store-path.ts";
import type { PathInfo } from "./path-info.ts";
import { decodeSignedPathInfo, encodeSignedPathInfo } from "./path-info-codec.ts";

/** Why a root node counts as a path's. */
export type RootProof =
  /** Its whole NAR was rendered, or read, and matched hash and size. */
  | { readonly by: "rendered" }
  /** A root key, `NAME:BASE64`, signed that it is. Counts while that key is trusted. */
  | { readonly by: "vouched"; readonly key: string };

/** A path info as a local store keeps it. */
export interface StoredPathInfo {
  readonly pathInfo: PathInfo;
  readonly proof: RootProof;
  /** The cache that it came from, and that cache's narinfo, byte for byte. */
  readonly upstream?: { readonly url: string; readonly narInfo: string } | undefined;
}

/** The encoding that stands in the store (proto/stored_pathinfo.proto). */
export function encodeStoredPathInfo({ pathInfo, proof, upstream }: StoredPathInfo): Uint8Array {
  const texts = [
    pathInfo.storeDir,
    proof.by === "vouched" ? proof.key : "",
    upstream?.url ?? "",
    upstream?.narInfo ?? "",
  ];
  return Buffer.concat([
    messageField(1, encodeSignedPathInfo(pathInfo)),
    ...texts.map((text, index) => bytesField(2 + index, Buffer.from(text))),
  ]);
}

/** Decodes what `encodeStoredPathInfo` encoded. Rejects INVALID. */
export function decodeStoredPathInfo(bytes: Uint8Array): StoredPathInfo {
  let signed: Uint8Array = new Uint8Array(0);
  const texts = ["", "", "", ""];
  const fields = new WireFields(bytes, "stored path info");
  for (let field = fields.next(); field !== 0; field = fields.next()) {
    if (field === 1) signed = fields.bytes();
    else if (field <= 5) texts[field - 2] = Buffer.from(fields.bytes()).toString();
    else fields.skip();
  }
  const [storeDir = "", key = "", url = "", narInfo = ""] = texts;
  return {
    pathInfo: decodeSignedPathInfo(signed, parseStoreDir(storeDir)),
    proof: key === "" ? { by: "rendered" } : { by: "vouched", key },
    upstream: url === "" ? undefined : { url, narInfo },
  };
}
