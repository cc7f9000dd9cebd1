import { expect, test } from "vitest";
import { isCastoreError } from "../src/castore-error.ts";
import { chunksOf } from "../src/chunking/chunker.ts";
import { walkFiles } from "../src/files/file-walk.ts";
import type { FileNode, Node } from "../src/index.ts";
import { type Digest, digestOf } from "../src/model/digest.ts";
import { directoryOf } from "../src/model/directory.ts";
import { encodeDirectory } from "../src/model/directory-codec.ts";
import { pathComponentOfText } from "../src/model/path-component.ts";
import { createNormalForm, createNormalizer, denormalize } from "../src/recipes/normal-form.ts";
import { completeRecipe } from "../src/recipes/recipe.ts";
import { buildRecipe } from "../src/recipes/recipe-builder.ts";
import { decodeRecipe, encodeRecipe } from "../src/recipes/recipe-codec.ts";
import { createMemoryBlobService } from "../src/services/memory-blob-service.ts";
import { createMemoryDirectoryService } from "../src/services/memory-directory-service.ts";
import { prngBytes } from "./vectors.ts";

const references = ["unused", "self", "used"].map((name) =>
  name.replaceAll("e", "a").replaceAll("u", "b").padStart(32, "0"),
);
const [, self = "", used = ""] = references;

const small = Buffer.from("a small file");
const referring = Buffer.from(`#!/nix/store/${used}-sh/bin/sh\nexec /nix/store/${self}-me/x\n`);
const large = Buffer.concat([prngBytes(900_000), Buffer.from(self), prngBytes(100_000)]);

/** {a/large, a/small, b → a again, referring, z-small-again}: three distinct blobs. */
async function makeTree() {
  const blobs = createMemoryBlobService();
  const directories = createMemoryDirectoryService();
  const file = async (bytes: Buffer): Promise<FileNode> => {
    const { digest, size } = await blobs.put([new Uint8Array(bytes)]);
    return { type: "file", digest, size, executable: false };
  };
  const entry = (name: string, node: Node) => ({ name: pathComponentOfText(name), node });
  const a = directoryOf([entry("large", await file(large)), entry("small", await file(small))]);
  const aNode: Node = { type: "directory", digest: digestOf(encodeDirectory(a)), size: a.size };
  const root = directoryOf([
    entry("a", aNode),
    entry("b", aNode),
    entry("empty", await file(Buffer.alloc(0))),
    entry("referring", await file(referring)),
    entry("z-small-again", await file(small)),
  ]);
  const digest = await directories.putClosure([a, root]);
  const node: Node = { type: "directory", digest, size: root.size };
  return { blobs, directories, node };
}

test("files are walked in name order, depth first, each once, the empty one not", async () => {
  const { directories, node } = await makeTree();
  const digests: Digest[] = [];
  for await (const { digest } of walkFiles(node, (digest) => directories.get(digest))) {
    digests.push(digest);
  }
  expect(digests).toEqual([large, small, referring].map(digestOf));
});

test("a recipe lists blobs of several chunks or with references, and what they need", async () => {
  const tree = await makeTree();
  const recipe = await buildRecipe(tree.node, references, tree);
  expect(recipe.references).toEqual([self, used].sort());
  expect(recipe.blobs.map((blob) => blob.digest)).toEqual([large, referring].map(digestOf));
  expect(recipe.plainWireSizes).toEqual([]);
  expect(decodeRecipe(encodeRecipe(recipe))).toEqual(recipe);
});

test("with the chunks and the recipe alone, every blob is put together again", async () => {
  const tree = await makeTree();
  const recipe = decodeRecipe(encodeRecipe(await buildRecipe(tree.node, references, tree)));
  const chunks = new Map<Digest, Uint8Array>();
  for (const bytes of [large, small, referring]) {
    const pieces: Uint8Array[] = [];
    const normalForm = createNormalForm(references);
    const normalizer = createNormalizer(normalForm, (piece) => pieces.push(new Uint8Array(piece)));
    normalizer.push(bytes);
    normalizer.finish();
    for await (const chunk of chunksOf([Buffer.concat(pieces)])) chunks.set(digestOf(chunk), chunk);
  }
  const files: FileNode[] = [];
  for await (const file of walkFiles(tree.node, (digest) => tree.directories.get(digest))) {
    files.push(file);
  }
  const made = completeRecipe(recipe, files).map((blob) => {
    const parts = blob.chunks.map(({ digest }) => chunks.get(digest) ?? Buffer.alloc(0));
    const bytes = Buffer.concat(parts);
    denormalize(bytes, 0, blob.occurrences, recipe.references);
    return digestOf(bytes);
  });
  expect(made).toEqual(files.map((file) => file.digest));
});

test("wire sizes are noted for every chunk, listed or not", async () => {
  const tree = await makeTree();
  const wireSize = async ({ size }: { size: number }) => size + 7;
  const recipe = await buildRecipe(tree.node, references, { ...tree, wireSize });
  expect(recipe.plainWireSizes).toEqual([small.length + 7]);
  const sizes = recipe.blobs.flatMap((blob) => blob.chunks.map((chunk) => chunk.wireSize));
  expect(sizes).toEqual(recipe.blobs.flatMap((blob) => blob.chunks.map((c) => c.size + 7)));
});

test("a mass rebuild that changes hashes only needs the same chunks", async () => {
  const before = await makeTree();
  const recipe = await buildRecipe(before.node, references, before);
  const blobs = createMemoryBlobService();
  const rebuilt = references.map((reference) => reference.replaceAll("0", "1"));
  let bytes = large.toString("latin1");
  references.forEach((reference, i) => {
    bytes = bytes.replaceAll(reference, rebuilt[i] ?? "");
  });
  const { digest, size } = await blobs.put([Buffer.from(bytes, "latin1")]);
  expect(digest).not.toBe(digestOf(large));
  const node: Node = { type: "file", digest, size, executable: false };
  const after = await buildRecipe(node, rebuilt, { ...before, blobs });
  expect(after.blobs[0]?.chunks).toEqual(recipe.blobs[0]?.chunks);
});

test("what is known of a blob is not read again", async () => {
  const tree = await makeTree();
  const plain = await buildRecipe(tree.node, references, tree);
  let asked = 0;
  const blobs = createMemoryBlobService();
  const analysis = async ({ digest, size }: FileNode) => {
    asked++;
    const chunks = [{ digest, size }];
    return { digest, size, chunks, occurrences: [] };
  };
  const recipe = await buildRecipe(tree.node, references, { ...tree, blobs, analysis });
  expect(asked).toBe(3);
  expect(recipe.blobs).toEqual([]);
  expect(plain.blobs).toHaveLength(2);
});

test("a missing blob or directory rejects INCOMPLETE, a wrong size CORRUPT", async () => {
  const tree = await makeTree();
  const without = { ...tree, blobs: createMemoryBlobService() };
  const incomplete = (error: unknown) => isCastoreError(error, "INCOMPLETE");
  await expect(buildRecipe(tree.node, references, without)).rejects.toSatisfy(incomplete);
  const noDirectories = { ...tree, directories: createMemoryDirectoryService() };
  await expect(buildRecipe(tree.node, references, noDirectories)).rejects.toSatisfy(incomplete);
  const file: Node = { type: "file", digest: digestOf(small), size: 1, executable: false };
  const corrupt = (error: unknown) => isCastoreError(error, "CORRUPT");
  await expect(buildRecipe(file, references, tree)).rejects.toSatisfy(corrupt);
});

test("building a recipe ends with the signal's reason", async () => {
  const tree = await makeTree();
  const reason = new Error("enough");
  const signal = AbortSignal.abort(reason);
  await expect(buildRecipe(tree.node, references, tree, { signal })).rejects.toBe(reason);
});
