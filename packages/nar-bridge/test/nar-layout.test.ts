import { createHash } from "node:crypto";
import {
  type BlobService,
  createMemoryBlobService,
  directoryOf,
  EMPTY_DIGEST,
  type Entry,
  encodedDirectoryOf,
  formatEntryText,
  type Node,
  parseDigest,
  pathComponentOfText,
} from "@castore/castore";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createNarLayout, NAR_LITERAL_BYTES_MAX } from "../src/nar/nar-layout.ts";
import { formatNarListing } from "../src/nar/nar-listing.ts";
import { calculateNar, narSizeOf, renderNar } from "../src/nar/nar-render.ts";
import {
  directory,
  encodeNar,
  file,
  gather,
  memoryServices,
  readTree,
  storeTree,
  type Tree,
  treeArbitrary,
} from "./nar-fixture.ts";
import { vectors } from "./vectors.ts";

const NARS = Object.entries(vectors.nars);
const HELLO = "5ca7815adcb484e9a136c11efe69c1d530176d549b5d18d038eb5280b4b3470c";

async function layoutOf(tree: Tree) {
  const services = memoryServices();
  const root = await storeTree(tree, services);
  return createNarLayout(root, services);
}

describe("renderNar", () => {
  it.each(NARS)("renders %s of the vectors", async (_name, vector) => {
    const nar = Buffer.from(vector.hex, "hex");
    const services = memoryServices();
    const root = await storeTree(readTree([nar]), services);
    const rendered = await gather(renderNar(root, services));
    expect(rendered.equals(nar)).toBe(true);
    for (const algorithm of ["md5", "sha1", "sha256", "sha512"] as const) {
      const hash = createHash(algorithm).update(rendered).digest("hex");
      expect(hash).toBe(vector[algorithm]);
    }
    const narHash = `sha256:${vector.nar_hash_nixbase32}`;
    expect(await calculateNar(root, services)).toEqual({ narHash, narSize: nar.length });
    expect(await narSizeOf(root, services.directories)).toBe(nar.length);
    if (vector.entry !== undefined) {
      expect(formatEntryText(root)).toBe(vectors.entries[vector.entry]?.base64url);
    }
    if (vector.listing !== undefined) {
      const layout = await createNarLayout(root, services);
      expect(formatNarListing(layout.listing())).toBe(vector.listing);
    }
  });

  it("renders any tree as its NAR", async () => {
    await fc.assert(
      fc.asyncProperty(treeArbitrary, async (tree) => {
        const services = memoryServices();
        const root = await storeTree(tree, services);
        const nar = encodeNar(tree);
        expect((await gather(renderNar(root, services))).equals(nar)).toBe(true);
        expect(await narSizeOf(root, services.directories)).toBe(nar.length);
      }),
      { numRuns: 200 },
    );
  });

  it("passes large files on in pieces of up to 1 MiB and gathers small ones", async () => {
    const small = Array.from({ length: 400 }, (_, i) => [`f${i}`, file(`${i}`)] as const);
    const large = file(Buffer.alloc(3_000_000, 1));
    const tree = directory({ ...Object.fromEntries(small), large });
    const layout = await layoutOf(tree);
    const sizes: number[] = [];
    for await (const piece of layout.stream()) sizes.push(piece.byteLength);
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(layout.size);
    expect(Math.max(...sizes)).toBeLessThanOrEqual(1 << 20);
    expect(sizes.length).toBeLessThan(12);
  });

  it.each(vectors.nar_wrong_size_nodes)("rejects $entry as CORRUPT", async ({ entry }) => {
    const size = Number(/size=(\d+)/.exec(entry)?.[1]);
    const services = memoryServices();
    await services.blobs.put([Buffer.from("Hello World!")]);
    const node: Node = { type: "file", digest: parseDigest(HELLO), size, executable: false };
    const rendered = gather(renderNar(node, services));
    await expect(rendered).rejects.toMatchObject({ code: "CORRUPT" });
  });

  it("names the file whose blob is missing, shorter or longer", async () => {
    const tree = directory({
      a: file("one"),
      bin: directory({ tool: file("Hello World!", true) }),
    });
    const services = memoryServices();
    const root = await storeTree(tree, services);
    const missing = { ...services, blobs: createMemoryBlobService() };
    await missing.blobs.put([Buffer.from("one")]);
    await expect(gather(renderNar(root, missing))).rejects.toMatchObject({
      code: "INCOMPLETE",
      message: expect.stringContaining('"bin/tool"'),
    });
    for (const contents of ["Hello World", "Hello World!!"]) {
      const lying = { ...services, blobs: lyingBlobs(services.blobs, Buffer.from(contents)) };
      await expect(gather(renderNar(root, lying))).rejects.toMatchObject({
        code: "CORRUPT",
        message: expect.stringContaining('"bin/tool"'),
      });
    }
  });

  it("rejects a missing directory as INCOMPLETE", async () => {
    const services = memoryServices();
    const node: Node = { type: "directory", digest: EMPTY_DIGEST, size: 0 };
    const fault = { code: "INCOMPLETE" };
    await expect(gather(renderNar(node, services))).rejects.toMatchObject(fault);
    await expect(narSizeOf(node, services.directories)).rejects.toMatchObject(fault);
  });

  it("rejects a vast tree of few directories as EXHAUSTED, and still measures it", async () => {
    const services = memoryServices();
    const levels = [directoryOf([])];
    let node: Node = { type: "directory", digest: EMPTY_DIGEST, size: 0 };
    for (let i = 0; i < 30; i++) {
      const entries: Entry[] = [
        { name: pathComponentOfText("a"), node },
        { name: pathComponentOfText("b"), node },
      ];
      const level = directoryOf(entries);
      levels.push(level);
      node = { type: "directory", digest: encodedDirectoryOf(level).digest, size: level.size };
    }
    await services.directories.putClosure(levels);
    await expect(createNarLayout(node, services)).rejects.toMatchObject({ code: "EXHAUSTED" });
    const size = await narSizeOf(node, services.directories);
    expect(size).toBeGreaterThan(NAR_LITERAL_BYTES_MAX);
  });

  it("ends with the signal's reason", async () => {
    const layout = await layoutOf(directory({ a: file(Buffer.alloc(3_000_000)) }));
    const abort = new AbortController();
    const reason = new Error("the client went away");
    const rendered = (async () => {
      for await (const _piece of layout.stream(0, layout.size, { signal: abort.signal })) {
        abort.abort(reason);
      }
    })();
    await expect(rendered).rejects.toBe(reason);
  });
});

describe("NarLayout.stream", () => {
  it("gives any range of any NAR", async () => {
    await fc.assert(
      fc.asyncProperty(treeArbitrary, fc.nat(), fc.nat(), async (tree, a, b) => {
        const nar = encodeNar(tree);
        const layout = await layoutOf(tree);
        const start = a % (nar.length + 1);
        const end = start + (b % (nar.length + 20));
        const got = await gather(layout.stream(start, end));
        expect(got.equals(nar.subarray(start, end))).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  it("gives every range of a small NAR", async () => {
    const tree = directory({ a: file("contents"), b: file("", true), c: file("x") });
    const nar = encodeNar(tree);
    const layout = await layoutOf(tree);
    for (let start = 0; start <= nar.length; start += 3) {
      for (let end = start; end <= nar.length; end += 5) {
        const got = await gather(layout.stream(start, end));
        expect(got.equals(nar.subarray(start, end)), `${start}..${end}`).toBe(true);
      }
    }
  });

  it("opens only the files that the range touches, and closes them", async () => {
    const tree = directory({
      a: file(Buffer.alloc(200_000, 1)),
      b: file(Buffer.alloc(200_000, 2)),
      c: file(Buffer.alloc(200_000, 3)),
    });
    const services = memoryServices();
    const root = await storeTree(tree, services);
    const counts = { open: 0, close: 0 };
    const blobs = countedBlobs(services.blobs, counts);
    const layout = await createNarLayout(root, { ...services, blobs });
    const nar = encodeNar(tree);
    const got = await gather(layout.stream(250_000, 260_000));
    expect(got.equals(nar.subarray(250_000, 260_000))).toBe(true);
    expect(counts).toEqual({ open: 1, close: 1 });
    for await (const _piece of layout.stream()) break;
    expect(counts.close).toBe(counts.open);
  });
});

/** Blobs of which the one of 12 bytes has other contents. */
function lyingBlobs(blobs: BlobService, contents: Buffer): BlobService {
  return {
    ...blobs,
    async open(digest) {
      const reader = await blobs.open(digest);
      if (reader?.size !== 12) return reader;
      const stream = async function* () {
        yield new Uint8Array(contents);
      };
      return { ...reader, contents: undefined, stream };
    },
  };
}

function countedBlobs(blobs: BlobService, counts: { open: number; close: number }): BlobService {
  return {
    ...blobs,
    async open(digest) {
      const reader = await blobs.open(digest);
      if (reader === undefined) return undefined;
      counts.open++;
      const close = async () => {
        counts.close++;
      };
      return { ...reader, close };
    },
  };
}
