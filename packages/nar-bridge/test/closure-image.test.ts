import { type DirectoryNode, digestOf } from "@castore/castore";
import { expect, it } from "vitest";
import { RootSigningKey, TrustedRootKeys } from "../src/nix/signed-root.ts";
import type { StorePath } from "../src/nix/store-path.ts";
import { TrustedKeys } from "../src/nix/trusted-keys.ts";
import {
  type ClosureImage,
  encodeClosureImage,
  openClosureImage,
} from "../src/path-infos/closure-image.ts";
import { pathInfoOf } from "../src/path-infos/path-info.ts";
import { directory } from "./nar-fixture.ts";
import { generateSecretKeyText, makePath, OTHER_SECRET_KEY, SECRET_KEY } from "./path-fixture.ts";

const ROOT_KEY = RootSigningKey.parse(generateSecretKeyText("root-1"));
const OTHER_ROOT_KEY = RootSigningKey.parse(generateSecretKeyText("root-2"));
const KEYS = {
  trustedKeys: TrustedKeys.parse([SECRET_KEY.publicKey.text]),
  rootKeys: TrustedRootKeys.parse([ROOT_KEY.publicKey.text]),
};

async function imagedPath(name: string, references: readonly StorePath[]) {
  const { narInfo } = await makePath(name, directory({}), { references });
  const digest = digestOf(Buffer.from(name));
  const node: DirectoryNode = { type: "directory", digest, size: 2 };
  return { pathInfo: pathInfoOf(narInfo, node), recipe: Buffer.from(`how ${name} is made`) };
}

const lib = await imagedPath("lib", []);
const app = await imagedPath("app", [lib.pathInfo.storePath]);
const CLOSURE: ClosureImage = { paths: [app, lib], image: Buffer.from("a file system of sorts") };
const WANTED = [app.pathInfo.storePath];

it("comes out as it was put in, the paths in order", () => {
  const opened = openClosureImage(encodeClosureImage(CLOSURE, [ROOT_KEY]), WANTED, KEYS);
  const names = opened.paths.map(({ pathInfo }) => pathInfo.storePath);
  expect(names).toEqual([app.pathInfo.storePath, lib.pathInfo.storePath].sort());
  expect(new Set(opened.paths)).toEqual(new Set(CLOSURE.paths));
  expect(Buffer.from(opened.image).toString()).toBe("a file system of sorts");
});

it("is refused where one bit differs, wherever it is", () => {
  const bytes = encodeClosureImage({ ...CLOSURE, paths: [app, lib] }, [ROOT_KEY]);
  const recipes = [app, lib].map(({ recipe }) => bytes.indexOf(recipe));
  let refused = 0;
  for (let at = 0; at < bytes.length; at++) {
    // Nobody vouches for recipes: what they say is found out when it is used.
    if (recipes.some((start) => at >= start && at < start + lib.recipe.length)) continue;
    const changed = Buffer.from(bytes);
    changed[at] = (changed[at] ?? 0) ^ 1;
    try {
      const { image, paths } = openClosureImage(changed, WANTED, KEYS);
      // A field that nobody knows, or a signature beside those of the path that suffice.
      expect(Buffer.from(image).toString()).toBe("a file system of sorts");
      expect(paths.map(({ pathInfo }) => pathInfo.narHash).sort()).toEqual(
        [app, lib].map(({ pathInfo }) => pathInfo.narHash).sort(),
      );
    } catch {
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(bytes.length / 2);
});

it.each([
  ["another root key signed it", encodeClosureImage(CLOSURE, [OTHER_ROOT_KEY]), "root key"],
  ["nobody signed it", encodeClosureImage(CLOSURE, []), "root key"],
  ["a path is missing", encodeClosureImage({ ...CLOSURE, paths: [app] }, [ROOT_KEY]), "lacks"],
  [
    "it is of something else",
    encodeClosureImage({ ...CLOSURE, paths: [lib] }, [ROOT_KEY]),
    "lacks",
  ],
])("is refused where %s", (_, bytes, message) => {
  expect(() => openClosureImage(bytes, WANTED, KEYS)).toThrowError(message);
});

it("is refused where no trusted key signed a path, whatever root keys say", () => {
  const bytes = encodeClosureImage(CLOSURE, [ROOT_KEY]);
  const trustedKeys = TrustedKeys.parse([OTHER_SECRET_KEY.publicKey.text]);
  expect(() => openClosureImage(bytes, WANTED, { ...KEYS, trustedKeys })).toThrowError(
    expect.objectContaining({ code: "DENIED" }),
  );
});

it("is refused where the signature is of the same image with other roots", () => {
  const other = { ...lib.pathInfo, node: app.pathInfo.node };
  const signed = encodeClosureImage({ ...CLOSURE, paths: [app, { ...lib, pathInfo: other }] }, [
    ROOT_KEY,
  ]);
  const text = ROOT_KEY.signImage({
    digest: digestOf(CLOSURE.image),
    roots: [app.pathInfo, other].sort((a, b) => (a.storePath < b.storePath ? -1 : 1)),
  });
  const honest = encodeClosureImage(CLOSURE, [ROOT_KEY]).toString("latin1");
  const [, own = ""] = /(root-1:[\w+/]{86}==)/.exec(honest) ?? [];
  expect(signed.toString("latin1")).toContain(text);
  const mixed = Buffer.from(honest.replace(own, text), "latin1");
  expect(() => openClosureImage(mixed, WANTED, KEYS)).toThrowError("no trusted root key");
});
