import { bytesField, CastoreError, digestOf, messageField, WireFields } from "@castore/castore";
import {
  parseRootSignature,
  type RootSignature,
  type RootSigningKey,
  type RootsImage,
  type TrustedRootKeys,
} from "../nix/signed-root.ts";
import type { StorePath } from "../nix/store-path.ts";
import type { TrustedKeys } from "../nix/trusted-keys.ts";
import type { PathInfo } from "./path-info.ts";
import { decodeSignedPathInfo, encodeSignedPathInfo } from "./path-info-codec.ts";

/** A path of a closure, and how its files are made of chunks. */
export interface ImagedPath {
  readonly pathInfo: PathInfo;
  /** A recipe's encoding, which nobody vouches for; empty where there is none. */
  readonly recipe: Buffer;
}

/** All metadata of a closure, in a form that takes no work to use. */
export interface ClosureImage {
  /** Each once. */
  readonly paths: readonly ImagedPath[];
  /** A file system that shows them, without contents. */
  readonly image: Uint8Array;
}

/** The encoding (proto/closure_image.proto), with a signature by each of `keys`. */
export function encodeClosureImage(closure: ClosureImage, keys: readonly RootSigningKey[]): Buffer {
  const { image } = closure;
  const paths = [...closure.paths].sort((a, b) =>
    a.pathInfo.storePath < b.pathInfo.storePath ? -1 : 1,
  );
  const signed = rootsImageOf({ paths, image });
  return Buffer.concat([
    ...paths.map(({ pathInfo, recipe }) =>
      messageField(
        1,
        Buffer.concat([
          messageField(1, encodeSignedPathInfo(pathInfo)),
          ...(recipe.byteLength === 0 ? [] : [messageField(2, recipe)]),
        ]),
      ),
    ),
    ...keys.map((key) => messageField(2, Buffer.from(key.signImage(signed)))),
    bytesField(3, image),
  ]);
}

/** Whose word counts. */
export interface ImageKeys {
  readonly trustedKeys: TrustedKeys;
  readonly rootKeys: TrustedRootKeys;
}

/**
 * Decodes and verifies an image of the closure of `wanted`: a trusted key signed each path, and a
 * trusted root key that the image shows them. `image` is a view of `bytes`. Rejects INVALID where
 * it is malformed, DENIED where nobody who is trusted vouches for it, INCOMPLETE where a path is
 * missing.
 */
export function openClosureImage(
  bytes: Uint8Array,
  wanted: readonly StorePath[],
  { trustedKeys, rootKeys }: ImageKeys,
): ClosureImage {
  const { signatures, ...closure } = decodeClosureImage(bytes);
  if (rootKeys.verifyImage(rootsImageOf(closure), signatures) === undefined) {
    throw new CastoreError("DENIED", "closure image: no trusted root key signed it");
  }
  const known = new Set(closure.paths.map(({ pathInfo }) => pathInfo.storePath));
  const needed = [...wanted, ...closure.paths.flatMap(({ pathInfo }) => pathInfo.references)];
  for (const path of needed) {
    if (!known.has(path)) throw new CastoreError("INCOMPLETE", `closure image: lacks ${path}`);
  }
  for (const { pathInfo } of closure.paths) {
    if (trustedKeys.verify(pathInfo) !== undefined) continue;
    const { storePath } = pathInfo;
    throw new CastoreError("DENIED", `closure image: ${storePath}: no trusted signature`);
  }
  return closure;
}

function decodeClosureImage(
  bytes: Uint8Array,
): ClosureImage & { readonly signatures: readonly RootSignature[] } {
  const paths: ImagedPath[] = [];
  const signatures: RootSignature[] = [];
  let image: Uint8Array = new Uint8Array(0);
  const fields = new WireFields(bytes, "closure image");
  for (let field = fields.next(); field !== 0; field = fields.next()) {
    if (field === 1) paths.push(decodePath(fields.bytes()));
    else if (field === 2) signatures.push(parseRootSignature(textOf(fields.bytes())));
    else if (field === 3) image = fields.bytes();
    else fields.skip();
  }
  for (const [index, { pathInfo }] of paths.entries()) {
    const before = paths[index - 1]?.pathInfo.storePath;
    if (before === undefined || before < pathInfo.storePath) continue;
    throw new CastoreError("INVALID", `closure image: ${pathInfo.storePath} is out of order`);
  }
  return { paths, image, signatures };
}

function decodePath(bytes: Uint8Array): ImagedPath {
  let info: Uint8Array = new Uint8Array(0);
  let recipe = Buffer.alloc(0);
  const fields = new WireFields(bytes, "path of a closure image");
  for (let field = fields.next(); field !== 0; field = fields.next()) {
    if (field === 1) info = fields.bytes();
    // A copy: it outlives the image by far.
    else if (field === 2) recipe = Buffer.from(fields.bytes());
    else fields.skip();
  }
  return { pathInfo: decodeSignedPathInfo(info), recipe };
}

function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("latin1");
}

function rootsImageOf({ paths, image }: ClosureImage): RootsImage {
  return { digest: digestOf(image), roots: paths.map(({ pathInfo }) => pathInfo) };
}
