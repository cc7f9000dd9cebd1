import { describe, expect, test } from "vitest";
import { isCastoreError } from "../src/castore-error.ts";
import type { Node } from "../src/index.ts";
import { byteStringOfText } from "../src/model/byte-string.ts";
import {
  castorePathNames,
  castorePathOfHost,
  castorePathParent,
  joinCastorePath,
  parseCastorePath,
} from "../src/model/castore-path.ts";
import { parsePathComponent, pathComponentOfText } from "../src/model/path-component.ts";
import { parseSymlinkTarget } from "../src/model/symlink-target.ts";
import { createMemoryDirectoryService } from "../src/services/memory-directory-service.ts";
import { descend } from "../src/trees/descend.ts";
import { fixtures } from "./directory-service-suite.ts";
import { vector, vectors } from "./vectors.ts";

const parse = (text: string) => parseCastorePath(byteStringOfText(text));
const invalid = expect.toSatisfy((error) => isCastoreError(error, "INVALID"));

test.each(vectors.castore_paths.parse_ok)("%j is a path", (text) => {
  const path = parse(text);
  expect(path).toBe(text);
  expect(castorePathNames(path).join("/")).toBe(text);
});

test.each(["/", "a/", "/a", "a//b", ".", "..", "a/./b", "a/..", "a/b\0", `a/${"x".repeat(256)}`])(
  "%j is not a path",
  (text) => expect(() => parse(text)).toThrow(invalid),
);

describe("paths as people write them", () => {
  const ofHost = (text: string, resolve: boolean) =>
    castorePathOfHost(byteStringOfText(text), resolve ? "resolved" : "refused");

  test.each(vectors.castore_paths.from_host_path)(
    "%j is %j (.. resolved: %j)",
    (text, path, up) => {
      expect(ofHost(text, up)).toBe(path);
    },
  );

  test.each(vectors.castore_paths.from_host_path_fail)(
    "%j is refused (.. resolved: %j)",
    (text, up) => {
      expect(() => ofHost(text, up)).toThrow(invalid);
    },
  );
});

test("paths are joined and taken apart, with names of any bytes", () => {
  const odd = parsePathComponent(Buffer.from("ff0a", "hex"));
  const path = joinCastorePath(joinCastorePath(parse(""), pathComponentOfText("a")), odd);
  expect(castorePathNames(path)).toEqual(["a", odd]);
  expect(castorePathParent(path)).toBe("a");
  expect(castorePathParent(parse("a"))).toBe("");
  expect(castorePathParent(parse(""))).toBeUndefined();
});

describe("descending from DIRECTORY_COMPLICATED", () => {
  const { rust } = vector(vectors.directories, "DIRECTORY_COMPLICATED");
  const root = { type: "directory", digest: rust.digest_hex, size: rust.size } as Node;
  const directories = createMemoryDirectoryService();
  const at = async (text: string) => {
    const all = ["DIRECTORY_WITH_KEEP", "DIRECTORY_COMPLICATED"];
    await directories.putClosure(fixtures(all));
    return descend(root, parse(text), (digest) => directories.get(digest));
  };
  const keepDirectory = vector(vectors.directories, "DIRECTORY_WITH_KEEP").rust.digest_hex;

  test("gives the root, directories, files and symlinks", async () => {
    expect(await at("")).toBe(root);
    expect(await at("keep")).toMatchObject({ type: "directory", digest: keepDirectory });
    expect(await at("keep/.keep")).toMatchObject({ type: "file", size: 0 });
    expect(await at("aa")).toMatchObject({ type: "symlink" });
  });

  test("gives nothing for what is absent, or below what is no directory", async () => {
    for (const path of ["absent", "keep/absent", "aa/below", ".keep/foo"]) {
      expect(await at(path)).toBeUndefined();
    }
    const target = parseSymlinkTarget(byteStringOfText("keep"));
    const link: Node = { type: "symlink", target };
    expect(await descend(link, parse("a"), async () => undefined)).toBeUndefined();
  });

  test("rejects INCOMPLETE where a directory is missing", async () => {
    const descending = descend(root, parse("keep"), async () => undefined);
    await expect(descending).rejects.toSatisfy((error) => isCastoreError(error, "INCOMPLETE"));
  });
});
