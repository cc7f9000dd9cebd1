import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type CastoreError, isCastoreError } from "../src/castore-error.ts";
import type { DirectoryNode, DirectoryService, Node } from "../src/index.ts";
import { byteStringOfText } from "../src/model/byte-string.ts";
import { type Digest, digestOf, EMPTY_DIGEST, parseDigest } from "../src/model/digest.ts";
import { type Directory, directoryOf } from "../src/model/directory.ts";
import { decodeDirectory, encodeDirectory } from "../src/model/directory-codec.ts";
import { pathComponentOfText } from "../src/model/path-component.ts";
import { parseSymlinkTarget } from "../src/model/symlink-target.ts";
import type { Fixture } from "./blob-service-suite.ts";
import { type StreamVector, vector, vectors } from "./vectors.ts";

/** What an implementation cannot do. */
export interface DirectoryServiceTraits {
  /** Only roots of stored closures can be looked up, as in snix's object store. */
  readonly rootsOnly?: boolean;
}

const ABSENT = parseDigest("00".repeat(32));

/** The contract of DirectoryService, line by line. Every implementation calls this once. */
export function describeDirectoryService(
  name: string,
  make: () => Promise<Fixture<DirectoryService>>,
  traits: DirectoryServiceTraits = {},
): void {
  describe(`${name} as a DirectoryService`, () => {
    let fixture: Fixture<DirectoryService>;
    let service: DirectoryService;
    beforeEach(async () => {
      fixture = await make();
      service = fixture.service;
    });
    afterEach(() => fixture.close());
    describeGet(() => service, traits);
    describePutClosure(() => service);
    describeRefusals(() => service);
    describeCancellation(() => service);
  });
}

function describeGet(service: () => DirectoryService, traits: DirectoryServiceTraits): void {
  test("a directory that was never put is absent, alone and as a closure", async () => {
    expect(await service().get(ABSENT)).toBeUndefined();
    expect(await service().get(EMPTY_DIGEST)).toBeUndefined();
    expect(await closure(service(), ABSENT)).toEqual([]);
  });

  test("the empty directory can be put and got", async () => {
    expect(await service().putClosure([directoryOf([])])).toBe(EMPTY_DIGEST);
    expect((await service().get(EMPTY_DIGEST))?.entries).toEqual([]);
    expect(await closure(service(), EMPTY_DIGEST)).toEqual([EMPTY_DIGEST]);
  });

  test("a directory comes back as it was put: any names, any nodes", async () => {
    const directory = nestedDirectory();
    const digest = await service().putClosure([directoryOf([]), directory]);
    expect(digest).toBe(digestOf(encodeDirectory(directory)));
    const got = await service().get(digest);
    expect(got?.entries).toEqual(directory.entries);
    expect(got?.size).toBe(directory.size);
  });

  test("getClosure() goes breadth first in name order and gives each digest once", async () => {
    const { all, root } = diamond();
    const digest = await service().putClosure(all);
    const [shared, a, b] = all.map(digestOfDirectory);
    expect(digest).toBe(digestOfDirectory(root));
    expect(await closure(service(), digest)).toEqual([digest, b, a, shared]);
  });

  if (!traits.rootsOnly) {
    test("every directory of a closure is a root of its own", async () => {
      const { all } = diamond();
      await service().putClosure(all);
      for (const directory of all) {
        const digest = digestOfDirectory(directory);
        expect((await service().get(digest))?.entries).toEqual(directory.entries);
        expect((await closure(service(), digest))[0]).toBe(digest);
      }
    });
  }

  test("getClosure() may be left early", async () => {
    const digest = await service().putClosure(diamond().all);
    for await (const directory of service().getClosure(digest)) {
      expect(digestOfDirectory(directory)).toBe(digest);
      break;
    }
    expect(await closure(service(), digest)).toHaveLength(4);
  });
}

function describePutClosure(service: () => DirectoryService): void {
  test.each(vectors.directory_streams.leaves_to_root.filter(accepted))(
    "putClosure() of %j resolves with its root's digest",
    async (names) => {
      const directories = fixtures(names);
      const root = await service().putClosure(lazily(directories));
      expect(root).toBe(digestOfDirectory(directories[directories.length - 1]));
      const stored = await closure(service(), root);
      expect(new Set(stored)).toEqual(new Set(directories.map(digestOfDirectory)));
    },
  );

  test("putClosure() is idempotent", async () => {
    const first = await service().putClosure(diamond().all);
    expect(await service().putClosure(diamond().all)).toBe(first);
    expect(await closure(service(), first)).toHaveLength(4);
  });

  test("closures consistent under the spec's size rule are stored as they are", async () => {
    const names = ["DIRECTORY_A", "DIRECTORY_B", "DIRECTORY_D", "DIRECTORY_E"];
    const directories = fixtures(names, "spec");
    const root = await service().putClosure(directories);
    expect(root).toBe(vector(vectors.directories, "DIRECTORY_E").spec.digest_hex);
    expect(await closure(service(), root)).toHaveLength(4);
  });

  test("a child that is already stored need not be given", async () => {
    for (const rule of ["rust", "spec"] as const) {
      const [a, b, d, e] = fixtures(
        ["DIRECTORY_A", "DIRECTORY_B", "DIRECTORY_D", "DIRECTORY_E"],
        rule,
      );
      if (!a || !b || !d || !e) throw new Error("the vectors lack a directory");
      await service().putClosure([a, b, d]);
      const root = await service().putClosure([e]);
      expect(await closure(service(), root)).toHaveLength(4);
    }
  });

  test("a stored child binds the size rule of its parents", async () => {
    const [a, b, d] = fixtures(["DIRECTORY_A", "DIRECTORY_B", "DIRECTORY_D"], "spec");
    if (!a || !b || !d) throw new Error("the vectors lack a directory");
    await service().putClosure([a, b, d]);
    const deployed = directoryOf([entry("d", pointer(d))]);
    await expectCode(service().putClosure([deployed]), "INVALID");
    expect(await service().get(digestOfDirectory(deployed))).toBeUndefined();
  });

  test("concurrent puts of closures that share directories all succeed", async () => {
    const shared = directoryOf([entry("shared", symlink("target"))]);
    const roots = Array.from({ length: 16 }, (_, i) =>
      directoryOf([entry(`${i % 8}`, pointer(shared))]),
    );
    const put = roots.map((root) => service().putClosure(lazily([shared, root])));
    expect(await Promise.all(put)).toEqual(roots.map(digestOfDirectory));
    for (const root of roots) {
      expect(await closure(service(), digestOfDirectory(root))).toHaveLength(2);
    }
  });
}

function describeRefusals(service: () => DirectoryService): void {
  const codes: Readonly<Record<string, "INVALID" | "INCOMPLETE">> = {
    DirectoriesMissing: "INVALID",
    EmptySet: "INVALID",
    WrongSize: "INVALID",
    UnknownLTR: "INCOMPLETE",
  };

  test.each(vectors.directory_streams.leaves_to_root.filter((row) => !accepted(row)))(
    "putClosure() of %j is refused and leaves nothing behind (%s)",
    async (names, verdict) => {
      const code = codes[/\w+$/.exec(verdict)?.[0] ?? ""];
      expect(code).toBeDefined();
      const directories = fixtures(names);
      await expectCode(service().putClosure(directories), code);
      for (const directory of directories) {
        expect(await service().get(digestOfDirectory(directory))).toBeUndefined();
      }
    },
  );

  test("a closure that mixes the two size rules is refused", async () => {
    const [a, b] = fixtures(["DIRECTORY_A", "DIRECTORY_B"]);
    if (!a || !b) throw new Error("the vectors lack a directory");
    const digest = digestOfDirectory(b);
    const mixed = directoryOf([
      entry("deployed", { type: "directory", digest, size: b.size }),
      entry("spec", { type: "directory", digest, size: b.specSize }),
    ]);
    await expectCode(service().putClosure([a, b, mixed]), "INVALID");
    // Each level is fine under one rule, but not both levels under the same.
    const middle = directoryOf([entry("b", { type: "directory", digest, size: b.specSize })]);
    const top = directoryOf([entry("m", pointer(middle))]);
    await expectCode(service().putClosure([a, b, middle, top]), "INVALID");
    expect(await service().get(digest)).toBeUndefined();
  });

  test("a source that fails leaves nothing behind", async () => {
    const failure = new Error("the source failed");
    const { all } = diamond();
    const failing = async function* (): AsyncGenerator<Directory> {
      yield* all;
      throw failure;
    };
    await expect(service().putClosure(failing())).rejects.toBe(failure);
    for (const directory of all) {
      expect(await service().get(digestOfDirectory(directory))).toBeUndefined();
    }
  });
}

function describeCancellation(service: () => DirectoryService): void {
  const reason = new Error("the caller went away");

  test("a signal that has already aborted ends every call with its reason", async () => {
    const { all } = diamond();
    const digest = await service().putClosure(all);
    const signal = AbortSignal.abort(reason);
    const other = directoryOf([entry("other", symlink("target"))]);
    await expect(service().get(digest, { signal })).rejects.toBe(reason);
    await expect(closure(service(), digest, signal)).rejects.toBe(reason);
    await expect(service().putClosure([other], { signal })).rejects.toBe(reason);
    expect(await service().get(digestOfDirectory(other))).toBeUndefined();
  });

  test("putClosure() from a silent source ends when its signal aborts", async () => {
    const controller = new AbortController();
    const { all } = diamond();
    const silent = async function* (): AsyncGenerator<Directory> {
      yield* all;
      queueMicrotask(() => controller.abort(reason));
      await new Promise(() => {});
    };
    const put = service().putClosure(silent(), { signal: controller.signal });
    await expect(put).rejects.toBe(reason);
    for (const directory of all) {
      expect(await service().get(digestOfDirectory(directory))).toBeUndefined();
    }
  });

  test("getClosure() ends when its signal aborts in the middle", async () => {
    const digest = await service().putClosure(diamond().all);
    const controller = new AbortController();
    let got = 0;
    const read = async (): Promise<void> => {
      for await (const _ of service().getClosure(digest, { signal: controller.signal })) {
        got++;
        controller.abort(reason);
      }
    };
    await expect(read()).rejects.toBe(reason);
    expect(got).toBe(1);
  });
}

function accepted([, verdict]: StreamVector): boolean {
  return verdict.startsWith("ok");
}

/** The directories of the vectors with these names. */
export function fixtures(names: string[] | string, rule: "rust" | "spec" = "rust"): Directory[] {
  const list = typeof names === "string" ? [names] : names;
  return list.map((name) => {
    const { proto_hex: hex } = vector(vectors.directories, name)[rule];
    return decodeDirectory(Buffer.from(hex, "hex"));
  });
}

/** root → {1: b, 2: a}, a → shared, b → {x: a, y: shared}; children first. */
function diamond(): { all: Directory[]; root: Directory } {
  const shared = directoryOf([entry("leaf", symlink("target"))]);
  const a = directoryOf([entry("s", pointer(shared))]);
  const b = directoryOf([entry("x", pointer(a)), entry("y", pointer(shared))]);
  const root = directoryOf([entry("1", pointer(b)), entry("2", pointer(a))]);
  return { all: [shared, a, b, root], root };
}

function nestedDirectory(): Directory {
  return directoryOf([
    entry("dir", pointer(directoryOf([]))),
    entry("executable", { type: "file", digest: ABSENT, size: 2 ** 53 - 1, executable: true }),
    entry("file", { type: "file", digest: EMPTY_DIGEST, size: 0, executable: false }),
    entry("link", symlink("../é")),
    entry("ü".repeat(127), symlink("/")),
    entry("a\nb", symlink("x".repeat(4095))),
  ]);
}

function entry(
  name: string,
  node: Node,
): { name: ReturnType<typeof pathComponentOfText>; node: Node } {
  return { name: pathComponentOfText(name), node };
}

function symlink(target: string): Node {
  return { type: "symlink", target: parseSymlinkTarget(byteStringOfText(target)) };
}

function pointer(directory: Directory): DirectoryNode {
  return { type: "directory", digest: digestOfDirectory(directory), size: directory.size };
}

function digestOfDirectory(directory: Directory | undefined): Digest {
  if (directory === undefined) throw new Error("no directory");
  return digestOf(encodeDirectory(directory));
}

async function closure(
  service: DirectoryService,
  root: Digest,
  signal?: AbortSignal,
): Promise<Digest[]> {
  const digests: Digest[] = [];
  for await (const directory of service.getClosure(root, { signal })) {
    digests.push(digestOfDirectory(directory));
  }
  return digests;
}

async function* lazily<T>(items: Iterable<T>): AsyncGenerator<T> {
  for (const item of items) {
    await Promise.resolve();
    yield item;
  }
}

async function expectCode(promise: Promise<unknown>, code: CastoreError["code"] | undefined) {
  await expect(promise).rejects.toSatisfy((error) => isCastoreError(error, code));
}
