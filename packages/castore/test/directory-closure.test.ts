import { describe, expect, test } from "vitest";
import { isCastoreError } from "../src/castore-error.ts";
import { type Digest, digestOf } from "../src/model/digest.ts";
import { type Directory, directoryOf } from "../src/model/directory.ts";
import {
  createRootToLeaves,
  encodedDirectoryOf,
  leavesToRoot,
  walkClosure,
} from "../src/model/directory-closure.ts";
import { encodeDirectory } from "../src/model/directory-codec.ts";
import { pathComponentOfText } from "../src/model/path-component.ts";
import { fixtures } from "./directory-service-suite.ts";
import { vectors } from "./vectors.ts";

const withCode = (code: "INVALID" | "CORRUPT" | "INCOMPLETE" | "EXHAUSTED") =>
  expect.toSatisfy((error) => isCastoreError(error, code));

const digestOfDirectory = (directory: Directory): Digest => digestOf(encodeDirectory(directory));

function acceptAll(root: Digest, directories: readonly Directory[]): boolean[] {
  const check = createRootToLeaves(root);
  const accepted = directories.map((directory) =>
    check.accept(digestOfDirectory(directory), directory),
  );
  check.finish();
  expect(check.complete).toBe(true);
  return accepted;
}

describe("root first", () => {
  const rows = vectors.directory_streams.root_to_leaves.flatMap(([names, verdict]) =>
    typeof names === "string" ? [] : [{ names, verdict }],
  );

  test.each(rows.filter(({ verdict }) => verdict.startsWith("ok")))("$names: $verdict", (row) => {
    const directories = fixtures(row.names);
    const accepted = acceptAll(digestOfDirectory(directories[0] ?? directoryOf([])), directories);
    const distinct = new Set(row.names);
    expect(accepted.filter(Boolean)).toHaveLength(distinct.size);
  });

  test.each(rows.filter(({ verdict }) => verdict.startsWith("err")))("$names: $verdict", (row) => {
    const directories = fixtures(row.names);
    const root = digestOfDirectory(directories[0] ?? directoryOf([]));
    const code = row.verdict.startsWith("err finalize") ? "INCOMPLETE" : "CORRUPT";
    expect(() => acceptAll(root, directories)).toThrow(withCode(code));
  });

  test("expected root A, got B: err: Unexpected", () => {
    const row = vectors.directory_streams.root_to_leaves.find(([names]) => !Array.isArray(names));
    expect(row).toEqual(["expected root A, got B", "err: Unexpected"]);
    const [a, b] = fixtures(["DIRECTORY_A", "DIRECTORY_B"]);
    if (a === undefined || b === undefined) throw new Error("the vectors lack a directory");
    expect(() => acceptAll(digestOfDirectory(a), [b])).toThrow(withCode("CORRUPT"));
  });

  test("a closure by the spec's sizes is as good, one that mixes both is not", () => {
    const names = ["DIRECTORY_E", "DIRECTORY_D", "DIRECTORY_A", "DIRECTORY_B"];
    for (const rule of ["rust", "spec"] as const) {
      const directories = fixtures(names, rule);
      const [root] = directories;
      if (root === undefined) throw new Error("the vectors lack a directory");
      expect(acceptAll(digestOfDirectory(root), directories)).toHaveLength(4);
    }
    const [a, b] = fixtures(["DIRECTORY_A", "DIRECTORY_B"]);
    if (a === undefined || b === undefined) throw new Error("the vectors lack a directory");
    const digest = digestOfDirectory(b);
    const mixed = directoryOf(
      [b.size, b.specSize].map((size, i) => ({
        name: pathComponentOfText(`${i}`),
        node: { type: "directory", digest, size },
      })),
    );
    expect(() => acceptAll(digestOfDirectory(mixed), [mixed, b, a])).toThrow(withCode("CORRUPT"));
  });

  test("what is missing at the end is named", () => {
    const [c, a] = fixtures(["DIRECTORY_C", "DIRECTORY_A"]);
    if (a === undefined || c === undefined) throw new Error("the vectors lack a directory");
    expect(() => acceptAll(digestOfDirectory(c), [c])).toThrow(digestOfDirectory(a));
  });

  test("no more distinct directories than the limit are waited for", () => {
    const children = Array.from({ length: 10 }, (_, i) => ({
      name: pathComponentOfText(`${i}`),
      node: { type: "directory" as const, digest: digestOf(Buffer.of(i)), size: 0 },
    }));
    const root = directoryOf(children);
    const digest = digestOfDirectory(root);
    expect(createRootToLeaves(digest, 11).accept(digest, root)).toBe(true);
    const check = createRootToLeaves(digest, 10);
    expect(() => check.accept(digest, root)).toThrow(withCode("EXHAUSTED"));
  });
});

describe("children first", () => {
  async function collect(stream: ReturnType<typeof leavesToRoot>) {
    const digests: Digest[] = [];
    let next = await stream.next();
    for (; next.done !== true; next = await stream.next()) digests.push(next.value.digest);
    return { digests, root: next.value };
  }

  test("each distinct directory is given once, then the root's digest", async () => {
    const directories = fixtures(["DIRECTORY_A", "DIRECTORY_A", "DIRECTORY_B", "DIRECTORY_D"]);
    const { digests, root } = await collect(leavesToRoot(directories));
    const distinct = [...new Set(directories.map(digestOfDirectory))];
    expect(digests).toEqual(distinct);
    expect(root).toBe(distinct.at(-1));
    const [first] = directories;
    if (first === undefined) throw new Error("the vectors lack a directory");
    const { bytes, digest } = encodedDirectoryOf(first);
    expect(digestOf(bytes)).toBe(digest);
  });

  test("no more distinct directories than the limit are taken", async () => {
    const directories = fixtures(["DIRECTORY_A", "DIRECTORY_A", "DIRECTORY_B"]);
    await collect(leavesToRoot(directories, { countMax: 2 }));
    const over = collect(leavesToRoot(directories, { countMax: 1 }));
    await expect(over).rejects.toEqual(withCode("EXHAUSTED"));
  });
});

test("walkClosure() looks each digest up once, and tells a missing one", async () => {
  const names = ["DIRECTORY_E", "DIRECTORY_D", "DIRECTORY_A", "DIRECTORY_B"];
  const stored = new Map(fixtures(names).map((d) => [digestOfDirectory(d), d]));
  const [root] = stored.keys();
  if (root === undefined) throw new Error("the vectors lack a directory");
  const lookups: Digest[] = [];
  const get = async (digest: Digest) => {
    lookups.push(digest);
    return stored.get(digest);
  };
  const walked: Digest[] = [];
  for await (const directory of walkClosure(root, get)) walked.push(digestOfDirectory(directory));
  expect(walked).toEqual([...stored.keys()]);
  expect(lookups).toEqual(walked);
  stored.delete(walked[3] ?? root);
  const walking = (async () => {
    for await (const _ of walkClosure(root, get));
  })();
  await expect(walking).rejects.toEqual(withCode("INCOMPLETE"));
});
