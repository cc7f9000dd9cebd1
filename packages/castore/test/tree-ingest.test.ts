import { execFileSync } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join as joinPath } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { isCastoreError } from "../src/castore-error.ts";
import type { BlobService, DirectoryNode, Node } from "../src/index.ts";
import { type ByteString, byteStringOfText } from "../src/model/byte-string.ts";
import { type Digest, digestOf } from "../src/model/digest.ts";
import { decodeDirectory } from "../src/model/directory-codec.ts";
import { pathComponentOfText } from "../src/model/path-component.ts";
import { createMemoryBlobService } from "../src/services/memory-blob-service.ts";
import { createMemoryDirectoryService } from "../src/services/memory-directory-service.ts";
import { ingestTree } from "../src/trees/tree-ingest.ts";
import { renderTree } from "../src/trees/tree-render.ts";
import { blobVector, prngBytes, vector, vectors } from "./vectors.ts";

const RANDOM = prngBytes(3_000_000);

let scratch: string;
let services: ReturnType<typeof makeServices>;

function makeServices() {
  return { blobs: createMemoryBlobService(), directories: createMemoryDirectoryService() };
}

beforeEach(() => {
  scratch = mkdtempSync(joinPath(tmpdir(), "castore-tree-"));
  services = makeServices();
});

afterEach(() => {
  execFileSync("chmod", ["-R", "u+rwX", scratch]);
  rmSync(scratch, { recursive: true });
});

const at = (...names: string[]): string => joinPath(scratch, ...names);

/** What a tree is, by another way: paths in latin1, types, modes, contents. */
function listing(path: Buffer, below = ""): string[] {
  const stats = lstatSync(path);
  if (stats.isSymbolicLink()) {
    return [`${below} -> ${readlinkSync(path, { encoding: "buffer" }).toString("latin1")}`];
  }
  if (stats.isFile()) {
    const mode = (stats.mode & 0o100) !== 0 ? "x" : "-";
    return [`${below} ${mode} ${digestOf(readFileSync(path))}`];
  }
  const names = readdirSync(path, { encoding: "buffer" }).sort(Buffer.compare);
  const nested = names.flatMap((name) => {
    const child = Buffer.concat([path, Buffer.from("/"), name]);
    return listing(child, `${below}/${name.toString("latin1")}`);
  });
  return [`${below}/`, ...nested];
}

/** Everything that a path may hold. */
function makeTree(): void {
  mkdirSync(at("tree/empty/deep/deeper"), { recursive: true });
  mkdirSync(at("tree/many"));
  for (let i = 0; i < 300; i++) writeFileSync(at("tree/many", `${i}`), `contents ${i % 50}`);
  writeFileSync(at("tree/large"), RANDOM);
  writeFileSync(at("tree/exactly"), RANDOM.subarray(0, 262_144));
  writeFileSync(at("tree/one-more"), RANDOM.subarray(0, 262_145));
  writeFileSync(at("tree/nothing"), "");
  writeFileSync(at("tree/run"), "#!/bin/sh\n");
  chmodSync(at("tree/run"), 0o744);
  writeFileSync(at("tree/group-only"), "x");
  chmodSync(at("tree/group-only"), 0o654);
  symlinkSync("../nowhere", at("tree/dangling"));
  symlinkSync(Buffer.from("ffe9", "hex"), at("tree/odd-target"));
  const odd = Buffer.concat([Buffer.from(at("tree/")), Buffer.from("ff0a20e9", "hex")]);
  writeFileSync(odd, "a name of any bytes");
  writeFileSync(at("tree", "n".repeat(255)), "the longest name");
  // Sorted bytewise, "a-b" comes before "a/…", "a" before both.
  for (const name of ["a", "a-b", "a.b", "ä", "Z"]) mkdirSync(at("tree", name));
}

test("a tree that was stored comes out the same", async () => {
  makeTree();
  const node = await ingestTree(at("tree"), services);
  await renderTree(node, services, at("out"));
  expect(listing(Buffer.from(at("out")))).toEqual(listing(Buffer.from(at("tree"))));
  expect(lstatSync(at("out")).mode & 0o7777).toBe(0o555);
  expect(lstatSync(at("out/run")).mode & 0o7777).toBe(0o555);
  expect(lstatSync(at("out/nothing")).mode & 0o7777).toBe(0o444);
  expect(await ingestTree(Buffer.from(at("out")), makeServices())).toEqual(node);
});

test("the directories that snix's vectors know have snix's digests", async () => {
  mkdirSync(at("tree/keep"), { recursive: true });
  writeFileSync(at("tree/.keep"), "");
  writeFileSync(at("tree/keep/.keep"), "");
  symlinkSync("/nix/store/somewhereelse", at("tree/aa"));
  const { rust } = vector(vectors.directories, "DIRECTORY_COMPLICATED");
  expect(await ingestTree(at("tree"), services)).toEqual({
    type: "directory",
    digest: rust.digest_hex,
    size: rust.size,
  });
});

test("a file and a symlink are roots too", async () => {
  writeFileSync(at("file"), blobVector("HELLOWORLD_BLOB"));
  chmodSync(at("file"), 0o555);
  symlinkSync("file", at("link"));
  const digest = digestOf(blobVector("HELLOWORLD_BLOB"));
  const file: Node = { type: "file", digest, size: 12, executable: true };
  expect(await ingestTree(at("file"), services)).toEqual(file);
  expect(await ingestTree(at("link"), services)).toEqual({ type: "symlink", target: "file" });
  await renderTree(file, services, at("out"));
  expect(readFileSync(at("out"), "latin1")).toBe("Hello World!");
});

test("a filter leaves out what it refuses, and never sees below it", async () => {
  makeTree();
  const seen: ByteString[] = [];
  const refused = byteStringOfText("empty/deep");
  const filter = (path: ByteString): boolean => {
    seen.push(path);
    return path !== refused && !path.startsWith("many/1");
  };
  const node = await ingestTree(at("tree"), { ...services, filter });
  await renderTree(node, services, at("out"));
  rmSync(at("tree/empty/deep"), { recursive: true });
  for (const name of readdirSync(at("tree/many"))) {
    if (name.startsWith("1")) rmSync(at("tree/many", name));
  }
  expect(listing(Buffer.from(at("out")))).toEqual(listing(Buffer.from(at("tree"))));
  expect(seen).toContain(refused);
  expect(seen).not.toContain(byteStringOfText("empty/deep/deeper"));
});

describe("what cannot be stored is named", () => {
  const expectFault = async (path: string, code: string, named: string): Promise<void> => {
    const fault = await ingestTree(path, services).catch((error) => error);
    expect(isCastoreError(fault)).toBe(true);
    expect(fault).toMatchObject({ code, message: expect.stringContaining(named) });
  };

  test("a FIFO, a socket, a device, nothing at all", async () => {
    mkdirSync(at("tree/below"), { recursive: true });
    execFileSync("mkfifo", [at("tree/below/fifo")]);
    await expectFault(at("tree"), "INVALID", "tree/below/fifo");
    await expectFault(at("tree/below/fifo"), "INVALID", "fifo");
    await expectFault("/dev/null", "INVALID", "/dev/null");
    await expectFault(at("absent"), "INVALID", "absent");
    rmSync(at("tree/below/fifo"));
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(at("tree/socket"), resolve));
    await expectFault(at("tree"), "INVALID", "tree/socket");
    await new Promise((resolve) => server.close(resolve));
  });

  test("a large file that changes while it is read", async () => {
    mkdirSync(at("tree"));
    writeFileSync(at("tree/file"), RANDOM);
    const blobs: BlobService = {
      ...services.blobs,
      async put(source, options) {
        const pieces: Uint8Array[] = [];
        for await (const piece of source) {
          pieces.push(piece);
          appendFileSync(at("tree/file"), "more");
        }
        return services.blobs.put(pieces, options);
      },
    };
    const changing = ingestTree(at("tree"), { ...services, blobs });
    await expect(changing).rejects.toThrow(/file: changed while it was read/);
    expect(await services.blobs.has(digestOf(RANDOM))).toBe(false);
  });

  test("a directory too long to be read again", async () => {
    mkdirSync(at("tree"));
    const target = "x".repeat(4_000);
    for (let i = 0; i < 270; i++) symlinkSync(target, at("tree", `${i}`));
    const storing = ingestTree(at("tree"), services);
    await expect(storing).rejects.toSatisfy((error) => isCastoreError(error, "EXHAUSTED"));
  });
});

test("a failing store fails the whole, once, and what is under way settles first", async () => {
  makeTree();
  let underWay = 0;
  const failure = new Error("disk full");
  const blobs: BlobService = {
    ...services.blobs,
    async put(source, options) {
      underWay++;
      try {
        const put = await services.blobs.put(source, options);
        if (put.digest === digestOf(Buffer.from("contents 7"))) throw failure;
        return put;
      } finally {
        underWay--;
      }
    },
  };
  await expect(ingestTree(at("tree"), { ...services, blobs })).rejects.toBe(failure);
  expect(underWay).toBe(0);
});

test("storing ends with the signal's reason", async () => {
  makeTree();
  const reason = new Error("enough");
  const controller = new AbortController();
  const filter = (path: ByteString): boolean => {
    if (path.startsWith("many/")) controller.abort(reason);
    return true;
  };
  const { signal } = controller;
  await expect(ingestTree(at("tree"), { ...services, filter, signal })).rejects.toBe(reason);
});

describe("rendering", () => {
  test("does not touch what is already there", async () => {
    makeTree();
    const node = await ingestTree(at("tree"), services);
    const before = listing(Buffer.from(at("tree")));
    await expect(renderTree(node, services, at("tree"))).rejects.toThrow("EEXIST");
    const file: Node = {
      type: "file",
      digest: digestOf(Buffer.alloc(0)),
      size: 0,
      executable: false,
    };
    await expect(renderTree(file, services, at("tree/run"))).rejects.toThrow("EEXIST");
    expect(listing(Buffer.from(at("tree")))).toEqual(before);
  });

  test("tells a missing blob, a missing directory and a wrong size", async () => {
    makeTree();
    const node = await ingestTree(at("tree"), services);
    const incomplete = (error: unknown) => isCastoreError(error, "INCOMPLETE");
    const noBlobs = { ...services, blobs: createMemoryBlobService() };
    await expect(renderTree(node, noBlobs, at("a-out"))).rejects.toSatisfy(incomplete);
    const noDirectories = { ...services, directories: createMemoryDirectoryService() };
    await expect(renderTree(node, noDirectories, at("b-out"))).rejects.toSatisfy(incomplete);
    const digest: Digest = digestOf(Buffer.from("contents 1"));
    const wrong: Node = { type: "file", digest, size: 3, executable: false };
    const corrupt = (error: unknown) => isCastoreError(error, "CORRUPT");
    await expect(renderTree(wrong, services, at("c-out"))).rejects.toSatisfy(corrupt);
  });
});

test("sizes of directories count by the deployed rule, at every level", async () => {
  makeTree();
  const { digest, size } = (await ingestTree(at("tree"), services)) as DirectoryNode;
  const root = await services.directories.get(digest);
  expect(root?.size).toBe(size);
  expect(root?.get(pathComponentOfText("many"))).toMatchObject({ size: 600 });
  expect(root?.get(pathComponentOfText("empty"))).toMatchObject({ size: 4 });
  expect(decodeDirectory(Buffer.alloc(0)).size).toBe(0);
});
