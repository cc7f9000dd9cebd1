import { readdirSync, readFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import {
  type FileSystemSync,
  loadFileSystemSync,
  reportsErrors,
} from "../src/files/file-system-sync.ts";
import { type BlobFile, type BlobFolder, FileWave } from "../src/local/file-wave.ts";
import { storeLayout } from "../src/local/store-layout.ts";
import { digestOf } from "../src/model/digest.ts";
import { createTemporaryDirectory } from "./temporary-directory.ts";

/** A folder in a directory of its own, on a file system whose syncs do what `sync` does. */
async function withFolder(
  sync: (() => Promise<void>) | undefined,
  use: (folder: BlobFolder, log: readonly string[]) => Promise<void>,
): Promise<void> {
  await using directory = await createTemporaryDirectory();
  const layout = storeLayout(directory.path);
  await Promise.all([mkdir(layout.blobs), mkdir(layout.temporary)]);
  const log: string[] = [];
  let files = 0;
  const beginSync = (): FileSystemSync => {
    log.push(`begin with ${readdirSync(layout.temporary).length} files`);
    return {
      async sync() {
        const counts = [readdirSync(layout.temporary).length, filesOf(layout.blobs).length];
        log.push(`sync of ${counts.join(" and ")}`);
        await sync?.();
      },
      async close() {
        log.push("close");
      },
    };
  };
  const folder: BlobFolder = {
    layout,
    temporaryName: () => `lease.${files++}`,
    beginSync: sync === undefined ? undefined : beginSync,
    shards: new Set(),
    forgetUnlinks: (digests) => log.push(`forget ${digests.length}`),
  };
  await use(folder, log);
}

function filesOf(path: string): string[] {
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

function blobFiles(count: number): BlobFile[] {
  return Array.from({ length: count }, (_, i) => {
    const from = Buffer.alloc(5000, `file ${i}, `);
    return { digest: digestOf(from), from };
  });
}

const isWell = async () => {};

describe("FileWave", () => {
  test("syncs many files together before the first has its name, and the names after", async () => {
    await withFolder(isWell, async (folder, log) => {
      const wave = new FileWave(folder);
      wave.add(blobFiles(20));
      wave.add(blobFiles(200).slice(20));
      expect((await wave.place()).size).toBe(0);
      const steps = ["begin with 0 files", "sync of 200 and 0", "forget 200", "sync of 0 and 200"];
      expect(log).toEqual([...steps, "close"]);
      for (const { digest, from } of blobFiles(200)) {
        expect(readFileSync(folder.layout.blob(digest)).equals(Buffer.from(from))).toBe(true);
      }
    });
  });

  test("syncs few files one by one", async () => {
    await withFolder(isWell, async (folder, log) => {
      const wave = new FileWave(folder);
      wave.add(blobFiles(20));
      expect((await wave.place()).size).toBe(0);
      expect(log).toEqual(["forget 20"]);
      expect(filesOf(folder.layout.blobs)).toHaveLength(20);
    });
  });

  test.each([
    ["data", 1, 0],
    ["names", 2, 100],
  ])(
    "where the sync of %s fails, so do all files; the next wave is whole",
    async (_, nth, left) => {
      let syncs = 0;
      const failure = new Error("EIO");
      const sync = async () => {
        if (++syncs === nth) throw failure;
      };
      await withFolder(sync, async (folder) => {
        const files = blobFiles(100);
        const wave = new FileWave(folder);
        wave.add(files);
        const faults = await wave.place();
        expect(new Map(faults)).toEqual(new Map(files.map(({ digest }) => [digest, failure])));
        expect(filesOf(folder.layout.temporary)).toEqual([]);
        // Without a row nobody sees them.
        expect(filesOf(folder.layout.blobs)).toHaveLength(left);
        const next = new FileWave(folder);
        next.add(files);
        expect((await next.place()).size).toBe(0);
        expect(filesOf(folder.layout.blobs)).toHaveLength(100);
      });
    },
  );

  test.each([20, 100])("of %i files one that cannot be placed does not keep others", async (n) => {
    await withFolder(isWell, async (folder) => {
      const [broken, ...files] = blobFiles(n);
      if (broken === undefined) throw new Error("no file");
      await mkdir(folder.layout.blob(broken.digest), { recursive: true });
      const wave = new FileWave(folder);
      wave.add([broken, ...files]);
      const faults = await wave.place();
      expect([...faults.keys()]).toEqual([broken.digest]);
      expect(filesOf(folder.layout.temporary)).toEqual([]);
      expect(filesOf(folder.layout.blobs)).toHaveLength(n - 1);
    });
  });

  test("gives a file that is already durable its name", async () => {
    await withFolder(undefined, async (folder) => {
      const bytes = Buffer.alloc(5000);
      const from = join(folder.layout.temporary, "large");
      await writeFile(from, bytes);
      const wave = new FileWave(folder);
      wave.add([{ digest: digestOf(bytes), from }]);
      expect((await wave.place()).size).toBe(0);
      expect(filesOf(folder.layout.temporary)).toEqual([]);
      expect(readFileSync(folder.layout.blob(digestOf(bytes))).equals(bytes)).toBe(true);
    });
  });
});

describe("a sync of a file system", () => {
  test.each([
    ["linux", "5.17.0", true],
    ["linux", "6.1.0-18-amd64", true],
    ["linux", "5.16.9", false],
    ["linux", "4.19.0", false],
    ["darwin", "23.1.0", false],
  ])("on %s %s tells of every error: %s", (system, version, isTold) => {
    expect(reportsErrors(system, version)).toBe(isTold);
  });

  test("can be used again, until it is closed; afterwards it rejects with the errno", async () => {
    const begin = await loadFileSystemSync(tmpdir());
    if (begin === undefined) return expect(await loadFileSystemSync("/proc")).toBe(undefined);
    const sync = begin();
    await sync.sync();
    await sync.sync();
    await sync.close();
    await expect(sync.sync()).rejects.toMatchObject({ code: "EBADF" });
  });

  test("is not there for a file system that is not known to tell of errors", async () => {
    expect(await loadFileSystemSync("/proc")).toBe(undefined);
  });
});
