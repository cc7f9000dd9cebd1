import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type BlobService, type DirectoryService, formatEntryText } from "@castore/castore";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  createNarIngest,
  INGEST_HELD_BYTES_MAX,
  INGEST_PUTS_MAX,
  INGEST_SMALL_FILE_BYTES_MAX,
  ingestNar,
} from "../src/nar/nar-ingest.ts";
import type { NarServices } from "../src/nar/nar-layout.ts";
import { createNarListingBuilder, formatNarListing } from "../src/nar/nar-listing.ts";
import { renderNar } from "../src/nar/nar-render.ts";
import {
  cutAt,
  directory,
  encodeNar,
  file,
  gather,
  memoryServices,
  storeTree,
  type Tree,
  treeArbitrary,
} from "./nar-fixture.ts";
import { vectors } from "./vectors.ts";

function cut(bytes: Buffer, size: number): Buffer[] {
  const pieces: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += size) pieces.push(bytes.subarray(at, at + size));
  return pieces;
}

function many(count: number, contents: (i: number) => Buffer): Tree {
  return directory(
    Object.fromEntries(Array.from({ length: count }, (_, i) => [`f${i}`, file(contents(i))])),
  );
}

/** Lets every promise that can settle do so. */
const settle = async () => {
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
};

/** Services that count what is under way, and whose puts may be held or fail. */
function watchedServices(options: { hold?: boolean; failAt?: number } = {}) {
  const services = memoryServices();
  const watch = { puts: 0, underWay: 0, mostUnderWay: 0, largest: 0, closures: 0 };
  let release: () => void = () => undefined;
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  const blobs: BlobService = {
    ...services.blobs,
    async put(source, { signal } = {}) {
      const index = watch.puts++;
      watch.mostUnderWay = Math.max(watch.mostUnderWay, ++watch.underWay);
      try {
        if (index === options.failAt) throw new Error("disk full");
        if (options.hold) await Promise.race([released, aborted(signal)]);
        const noted = async function* () {
          for await (const piece of source) {
            watch.largest = Math.max(watch.largest, piece.byteLength);
            yield piece;
          }
        };
        return await services.blobs.put(noted(), { signal });
      } finally {
        watch.underWay--;
      }
    },
  };
  const directories: DirectoryService = {
    ...services.directories,
    putClosure(...args) {
      watch.closures++;
      return services.directories.putClosure(...args);
    },
  };
  return { services: { blobs, directories } satisfies NarServices, watch, release };
}

function aborted(signal: AbortSignal | undefined): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal?.addEventListener("abort", () => reject(signal.reason));
  });
}

describe("ingestNar", () => {
  it.each(Object.entries(vectors.nars))("takes %s of the vectors", async (_name, vector) => {
    const nar = Buffer.from(vector.hex, "hex");
    for (const pieces of [[nar], cutAt(nar, [...nar.keys()])]) {
      const services = memoryServices();
      const visitor = createNarListingBuilder();
      const { node, narHash, narSize } = await ingestNar(pieces, services, { visitor });
      expect({ narHash, narSize }).toEqual({
        narHash: `sha256:${vector.nar_hash_nixbase32}`,
        narSize: nar.length,
      });
      if (vector.entry !== undefined) {
        expect(formatEntryText(node)).toBe(vectors.entries[vector.entry]?.base64url);
      }
      if (vector.listing !== undefined) {
        expect(formatNarListing(visitor.finish())).toBe(vector.listing);
      }
      expect((await gather(renderNar(node, services))).equals(nar)).toBe(true);
    }
  });

  it("rejects each invalid NAR of the vectors as INVALID, and stores no directory", async () => {
    for (const { name, hex } of vectors.nars_invalid_derived) {
      if (hex === undefined) continue;
      const { services, watch } = watchedServices();
      const ingested = ingestNar([Buffer.from(hex, "hex")], services);
      await expect(ingested, name).rejects.toMatchObject({ code: "INVALID" });
      expect(watch).toMatchObject({ underWay: 0, closures: 0 });
    }
  });

  it("makes of any NAR the node that its tree has", async () => {
    await fc.assert(
      fc.asyncProperty(
        treeArbitrary,
        fc.array(fc.nat(), { maxLength: 9 }),
        async (tree, places) => {
          const services = memoryServices();
          const { node } = await ingestNar(cutAt(encodeNar(tree), places), services);
          expect(node).toEqual(await storeTree(tree, memoryServices()));
          expect((await gather(renderNar(node, services))).equals(encodeNar(tree))).toBe(true);
        },
      ),
      { numRuns: 200 },
    );
  });

  it("takes files around the size from which they are streamed", async () => {
    const sizes = [0, 1, 262_144, 262_145, INGEST_SMALL_FILE_BYTES_MAX];
    for (const size of [...sizes, INGEST_SMALL_FILE_BYTES_MAX + 1, 3_000_000]) {
      const nar = encodeNar(
        directory({ a: file("a"), b: file(Buffer.alloc(size, 7)), c: file("c") }),
      );
      for (const pieces of [[nar], cut(nar, 65_536), cut(nar, 10_007)]) {
        const { services, watch } = watchedServices();
        const { node } = await ingestNar(pieces, services);
        expect((await gather(renderNar(node, services))).equals(nar)).toBe(true);
        if (size > INGEST_SMALL_FILE_BYTES_MAX) expect(watch.largest).toBeLessThanOrEqual(1 << 18);
      }
    }
  });

  it("rejects a directory above the limit of its message as EXHAUSTED", async () => {
    const entries = Array.from({ length: 4500 }, (_, i): [string, Tree] => [
      `${String(i).padStart(5, "0")}${"n".repeat(240)}`,
      { type: "symlink", target: "t" },
    ]);
    const nar = encodeNar(directory(Object.fromEntries(entries)));
    const ingested = ingestNar(cut(nar, 65_536), memoryServices());
    await expect(ingested).rejects.toMatchObject({ code: "EXHAUSTED" });
  });

  it("rejects with the source's own error, and leaves nothing under way", async () => {
    const nar = encodeNar(directory({ a: file("a"), b: file(Buffer.alloc(3_000_000)) }));
    const error = new Error("the network is gone");
    async function* failing() {
      yield nar.subarray(0, 2_000_000);
      throw error;
    }
    const { services, watch } = watchedServices();
    await expect(ingestNar(failing(), services)).rejects.toBe(error);
    // Of the large file: the small one waited for others.
    expect(watch).toMatchObject({ puts: 1, underWay: 0, closures: 0 });
  });

  it("ends with the signal's reason while the source is silent", async () => {
    const nar = encodeNar(directory({ a: file("a"), b: file(Buffer.alloc(3_000_000)) }));
    const abort = new AbortController();
    const reason = new Error("shutting down");
    async function* silent() {
      yield nar.subarray(0, 2_000_000);
      setImmediate(() => abort.abort(reason));
      await new Promise(() => undefined);
    }
    const { services, watch } = watchedServices();
    const ingested = ingestNar(silent(), services, { signal: abort.signal });
    await expect(ingested).rejects.toBe(reason);
    expect(watch).toMatchObject({ underWay: 0, closures: 0 });
  });
});

describe("createNarIngest", () => {
  it("takes a NAR whose pieces go elsewhere too, and changes none of them", async () => {
    const nar = encodeNar(many(500, (i) => Buffer.alloc(i * 20, i)));
    const services = memoryServices();
    const passedOn: Buffer[] = [];
    await using ingest = createNarIngest(services);
    for (const piece of cut(nar, 50_000)) {
      await ingest.write(piece);
      passedOn.push(piece);
    }
    const { node } = await ingest.end();
    expect(
      Buffer.concat(passedOn).equals(encodeNar(many(500, (i) => Buffer.alloc(i * 20, i)))),
    ).toBe(true);
    expect((await gather(renderNar(node, services))).equals(nar)).toBe(true);
  });

  it("takes its caller's word for the hash, and for nothing else", async () => {
    const nar = encodeNar(many(3, (i) => Buffer.alloc(100_000, i)));
    const { narHash } = await ingestNar([encodeNar(file("another"))], memoryServices());
    const services = memoryServices();
    const told = await ingestNar([nar], services, { narHash });
    expect(told).toEqual({ ...(await ingestNar([nar], memoryServices())), narHash });
    expect((await gather(renderNar(told.node, services))).equals(nar)).toBe(true);
  });

  it("waits for room in a slow store: neither bytes nor puts pile up", async () => {
    const small = many(4000, (i) => Buffer.from(`${i}`));
    for (const [tree, putsMax] of [
      [small, undefined],
      [small, 1000],
      [many(60, (i) => Buffer.alloc(1_000_000, i)), undefined],
      [many(1, () => Buffer.alloc(60_000_000)), undefined],
    ] as const) {
      const nar = encodeNar(tree);
      const { services, watch, release } = watchedServices({ hold: true });
      await using ingest = createNarIngest(services, { putsMax });
      let written = 0;
      const writing = (async () => {
        for (const piece of cut(nar, 65_536)) {
          await ingest.write(piece);
          written += piece.length;
        }
        return await ingest.end();
      })();
      await settle();
      expect(written).toBeLessThan(INGEST_HELD_BYTES_MAX + 3 * INGEST_SMALL_FILE_BYTES_MAX);
      expect(watch.puts).toBeLessThan((putsMax ?? INGEST_PUTS_MAX) + 65_536 / 200 + 128);
      if (putsMax !== undefined) expect(watch.puts).toBeGreaterThan(putsMax);
      release();
      const { narSize } = await writing;
      expect(narSize).toBe(nar.length);
    }
  });

  it("rejects with what a put rejected with, once all other puts have ended", async () => {
    for (const failAt of [0, 3, 40]) {
      const nar = encodeNar(many(50, (i) => Buffer.alloc(i % 7 === 3 ? 2_000_000 : 100_000, i)));
      const { services, watch } = watchedServices({ failAt });
      const ingest = createNarIngest(services);
      const writing = (async () => {
        for (const piece of cut(nar, 65_536)) await ingest.write(piece);
        await ingest.end();
      })();
      await expect(writing).rejects.toThrow("disk full");
      expect(watch).toMatchObject({ underWay: 0, closures: 0 });
      await expect(ingest.write(nar)).rejects.toThrow("disk full");
      await expect(ingest.end()).rejects.toThrow("disk full");
      await ingest.close();
    }
  });

  it("gives up when it is closed: held puts end, later calls reject CLOSED", async () => {
    const nar = encodeNar(many(30, (i) => Buffer.alloc(500_000 * (i % 4), i)));
    const { services, watch } = watchedServices({ hold: true });
    const ingest = createNarIngest(services);
    await ingest.write(nar.subarray(0, 5_000_000));
    expect(watch.underWay).toBeGreaterThan(1);
    await ingest.close();
    expect(watch).toMatchObject({ underWay: 0, closures: 0 });
    await expect(ingest.write(nar)).rejects.toMatchObject({ code: "CLOSED" });
    await expect(ingest.end()).rejects.toMatchObject({ code: "CLOSED" });
  });
});

describe("the real nix", () => {
  it("dumps awkward trees to the NARs that are rendered", async () => {
    const parent = mkdtempSync(join(tmpdir(), "castore-nar-"));
    try {
      const root = join(parent, "root");
      awkwardTree(root);
      for (const path of [root, join(root, "exe"), join(root, "link"), join(root, "empty")]) {
        const nar = execFileSync("nix-store", ["--dump", path], { maxBuffer: 1 << 27 });
        const services = memoryServices();
        const { node, narHash } = await ingestNar(cut(nar, 65_536), services);
        expect((await gather(renderNar(node, services))).equals(nar)).toBe(true);
        const hash = execFileSync("nix-hash", ["--type", "sha256", "--base32", path]);
        expect(narHash).toBe(`sha256:${hash.toString().trim()}`);
      }
    } finally {
      rmSync(parent, { recursive: true });
    }
  });

  it("restores what was rendered", async () => {
    const parent = mkdtempSync(join(tmpdir(), "castore-nar-"));
    try {
      const tree = directory({
        "\x01\xff": file("bytes"),
        d: directory({
          [`${"n".repeat(255)}`]: file("x", true),
          l: { type: "symlink", target: "\xfe" },
        }),
      });
      const services = memoryServices();
      const nar = await gather(renderNar(await storeTree(tree, services), services));
      execFileSync("nix-store", ["--restore", join(parent, "out")], { input: nar });
      const again = execFileSync("nix-store", ["--dump", join(parent, "out")]);
      expect(again.equals(nar)).toBe(true);
    } finally {
      rmSync(parent, { recursive: true });
    }
  });
});

function awkwardTree(root: string): void {
  mkdirSync(root);
  for (let size = 0; size < 18; size++) writeFileSync(join(root, `f${size}`), "x".repeat(size));
  writeFileSync(join(root, "exe"), "#!/bin/sh\n");
  chmodSync(join(root, "exe"), 0o755);
  symlinkSync("t".repeat(4095), join(root, "link"));
  symlinkSync("..", join(root, "a"));
  mkdirSync(join(root, "empty"));
  writeFileSync(Buffer.concat([Buffer.from(`${root}/`), Buffer.from([0xff, 0x0a, 0x22])]), "odd");
  for (const name of ["10", "9", "A", "a.b", "a-b", "é", " ", "n".repeat(255)]) {
    writeFileSync(join(root, name), name);
  }
  let deep = root;
  for (let i = 0; i < 100; i++) {
    deep = join(deep, "d");
    mkdirSync(deep);
  }
  writeFileSync(
    join(deep, "large"),
    createHash("sha256").update("seed").digest().toString("hex").repeat(50_000),
  );
}

describe("memory", () => {
  it("stays below 160 MiB for NARs of 5 GiB, read and ingested", () => {
    const dist = fileURLToPath(new URL("../dist/nar/", import.meta.url));
    const program = `
      import { readFileSync } from "node:fs";
      import { createNarReader } from ${JSON.stringify(`${dist}nar-reader.js`)};
      import { createNarIngest } from ${JSON.stringify(`${dist}nar-ingest.js`)};
      const head = Buffer.from(process.argv[1], "base64");
      const size = 5 * 2 ** 30;
      head.writeBigUInt64LE(BigInt(size), head.length - 8);
      const tail = Buffer.from(process.argv[2], "base64");
      const piece = Buffer.alloc(1 << 20, 1);
      let peak = 0;
      const measure = () => {
        const status = readFileSync("/proc/self/status", "latin1");
        const kib = (name) => Number(status.split(name + ":")[1].trim().split(" ")[0]);
        peak = Math.max(peak, kib("RssAnon") + kib("RssShmem"));
      };
      const none = () => undefined;
      const reader = createNarReader({ openDirectory: none, closeDirectory: none, openFile: none,
        closeFile: none, symlink: none });
      reader.write(head);
      for (let at = 0; at < size; at += piece.length) { reader.write(piece); }
      reader.write(tail);
      reader.end();
      measure();
      const blobs = { put: async (source) => {
        let size = 0;
        for await (const bytes of source) size += bytes.length;
        return { digest: "0".repeat(64), size };
      } };
      const ingest = createNarIngest({ blobs });
      await ingest.write(head);
      for (let at = 0; at < size; at += piece.length) {
        await ingest.write(piece);
        if (at % (1 << 24) === 0) measure();
      }
      await ingest.write(tail);
      const { node, narSize } = await ingest.end();
      measure();
      const got = { narSize, size: node.size, offset: reader.offset };
      console.log(JSON.stringify({ peakMiB: peak / 1024, ...got }));
    `;
    const nar = encodeNar(file(""));
    const at = nar.indexOf("contents") + 16;
    const args = [nar.subarray(0, at), nar.subarray(at)].map((bytes) => bytes.toString("base64"));
    const output = execFileSync(process.execPath, ["--input-type=module", "-e", program, ...args]);
    const { peakMiB, ...got } = JSON.parse(output.toString());
    const narSize = 5 * 2 ** 30 + nar.length;
    expect(got).toEqual({ narSize, size: 5 * 2 ** 30, offset: narSize });
    expect(peakMiB).toBeLessThan(160);
  });
});
