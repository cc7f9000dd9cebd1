import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { findIndexFault, findPageFault } from "../src/local/index-pages.ts";
import { withStore } from "./local-store-fixture.ts";
import { distUrl, startStoreProcess } from "./store-process.ts";
import { createTemporaryDirectory } from "./temporary-directory.ts";

const FLIPS = Number(process.env.CASTORE_INDEX_FLIPS ?? 60);
const SEED = Number(process.env.CASTORE_SEED ?? Date.now() % 1_000_000);
const ROOTS = 30;

/** Fills a store with rows of many kinds; `payload I` and `value I` are what they say. */
const FILL = `
  for (let i = 0; i < ${ROOTS}; i++) {
    const node = await tree(i);
    const payload = Buffer.from("payload " + i);
    await store.roots.put([{ key: String(i), node, references: [], payload }]);
    await store.table("t").put([{ key: "k" + i, node, value: Buffer.from("value " + i) }]);
  }
  await store.pins.put({ name: "pin", keys: ["1"], nodes: [] });
  await store.close();
`;

/** Flips a bit of a copy of the index, again and again, and reads all that can still be read. */
const READ_DAMAGED = `
  import { copyFileSync, mkdirSync, readFileSync, rmSync } from "node:fs";
  import { symlinkSync, writeFileSync } from "node:fs";
  import { findIndexFault } from "${distUrl("local/index-pages.js")}";
  await store.close();
  const [path, copy] = [process.argv[1], process.argv[1] + "-copy"];
  const index = readFileSync(path + "/index/data.mdb");
  let state = SEED;
  const random = (limit) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (((state >>> 8) / 2 ** 24) * limit) | 0;
  };
  const wrong = (what) => { throw new Error("wrong " + what); };
  const tried = async (read) => {
    try {
      await read();
    } catch (error) {
      if (error.name !== "CastoreError") throw error;
      return error.code;
    }
  };
  const readAll = async (store) => {
    const codes = [];
    for (let i = 0; i < ${ROOTS}; i++) {
      codes.push(await tried(async () => {
        const row = store.table("t").get("k" + i);
        if (row && Buffer.from(row.value).toString() !== "value " + i) wrong("row");
      }));
      codes.push(await tried(async () => {
        const root = await store.roots.get(String(i));
        if (root === undefined) return;
        if (Buffer.from(root.payload).toString() !== "payload " + i) wrong("root");
        for await (const directory of store.directories.getClosure(root.node.digest)) {
          for (const { node } of directory.entries) {
            if (node.type !== "file") continue;
            const reader = await store.blobs.open(node.digest);
            const pieces = [];
            for await (const piece of reader?.stream() ?? []) pieces.push(piece);
            if (reader && digestOf(Buffer.concat(pieces)) !== node.digest) wrong("blob");
            await reader?.close();
          }
        }
      }));
    }
    return codes.filter((code) => code !== undefined);
  };
  for (let flip = 0; flip < ${FLIPS}; flip++) {
    rmSync(copy, { recursive: true, force: true });
    for (const name of ["index", "tmp", "quarantine"]) {
      mkdirSync(copy + "/" + name, { recursive: true });
    }
    symlinkSync(path + "/blobs", copy + "/blobs");
    copyFileSync(path + "/format", copy + "/format");
    const damaged = Buffer.from(index);
    const at = random(index.length);
    damaged[at] ^= 1 << random(8);
    writeFileSync(copy + "/index/data.mdb", damaged);
    // LMDB itself would read such an index, and may end the process.
    if (findIndexFault(copy) !== undefined) {
      say("page");
      continue;
    }
    // Where the process ends, this is the last line.
    say("byte " + at);
    let faults = 0;
    let codes = [];
    const code = await tried(async () => {
      const opened = await openLocalStore({ path: copy });
      codes = await readAll(opened);
      const report = await opened.check();
      faults = report.faultCount + report.missing;
      await opened.close();
    });
    if (code !== undefined) say("closed " + code);
    else if (codes.length === 0) say("sound");
    else say(faults > 0 ? "told" : "untold " + codes);
  }
  say("end");
`;

test(`of an index with a flipped bit nothing wrong comes; fsck tells (seed ${SEED})`, async () => {
  await using directory = await createTemporaryDirectory();
  const path = join(directory.path, "store");
  expect(await startStoreProcess(path, FILL).ended).toBe("");
  const reader = startStoreProcess(path, READ_DAMAGED.replace("SEED", `${SEED}`));
  const lines: string[] = [];
  for await (const line of reader.lines) lines.push(line);
  // lmdb may say on stderr which page is not there.
  expect((await reader.ended).replace(/^page \d+ not found.*\n/gm, "")).toBe("");
  expect(lines.at(-1)).toBe("end");
  expect(lines.filter((line) => /^(untold|closed (?!CORRUPT))/.test(line))).toEqual([]);
  const results = lines.filter((line) => /^(page|closed|sound|told)/.test(line));
  expect(results).toHaveLength(FLIPS);
}, 600_000);

test("what LMDB would trust is found without it, and named by its page", async () => {
  await withStore(async (store) => {
    for (let i = 0; i < 400; i++) {
      await store.table("t").put([{ key: `${i}`, value: Buffer.alloc(i * 20) }]);
    }
    const file = join(store.path, "index", "data.mdb");
    expect(findIndexFault(store.path)).toBeUndefined();
    const sound = await readFile(file);
    const copy = join(store.path, "..", "copy");
    const faultAfter = async (edit: (index: Buffer) => void): Promise<string | undefined> => {
      const index = Buffer.from(sound);
      edit(index);
      await writeFile(copy, index);
      const fault = findPageFault(copy);
      return fault && `${fault.page}: ${fault.message}`;
    };
    expect(await faultAfter(() => {})).toBeUndefined();
    expect(await faultAfter((index) => index.writeUInt8(0, 24))).toMatch(/^0: is not the head/);
    const latest = sound.readBigUInt64LE(4096 + 152) > sound.readBigUInt64LE(152) ? 4096 : 0;
    expect(latest === 0 || latest === 4096).toBe(true);
    const root = Number(sound.readBigUInt64LE(latest + 24 + 24 + 48 + 40));
    const page = 4096 * root;
    for (const [at, message] of [
      [page, /is another page/],
      [page + 18, /is another page/],
      [page + 21, /wrong size|outside of its page/],
      [page + 25, /outside of its page/],
    ] as const) {
      const fault = await faultAfter((index) => index.writeUInt8((index[at] ?? 0) ^ 0x40, at));
      expect(fault).toMatch(message);
      expect(fault).toMatch(new RegExp(`^${root}: `));
    }
    expect(await faultAfter((index) => index.fill(0, page, page + 4096))).toMatch(/another page/);
  });
});

test("an index that is cut short is told", async () => {
  await withStore(async (store) => {
    for (let i = 0; i < 50; i++) await store.blobs.put([Buffer.alloc(4000, i)]);
    const index = await readFile(join(store.path, "index", "data.mdb"));
    await using directory = await createTemporaryDirectory();
    const copy = join(directory.path, "data.mdb");
    await writeFile(copy, index.subarray(0, 4096 * 8));
    expect(findPageFault(copy)?.message).toMatch(/beyond the end/);
    await writeFile(copy, index.subarray(0, 100));
    expect(findPageFault(copy)?.message).toMatch(/beyond the end of the file/);
  });
});

test("a sound index is sound while others write to it", async () => {
  await using directory = await createTemporaryDirectory();
  const path = join(directory.path, "store");
  const writer = startStoreProcess(
    path,
    `for (let i = 0; ; i++) {
      await store.table("t").put([{ key: String(i % 50), value: Buffer.alloc((i * 37) % 9000) }]);
      if (i % 20 === 0) say(String(i));
    }`,
  );
  let looks = 0;
  for await (const _ of writer.lines) {
    expect(findIndexFault(path)).toBeUndefined();
    if (++looks === 30) writer.child.kill("SIGKILL");
  }
  expect(looks).toBeGreaterThanOrEqual(30);
  // A place without a store has no index to be at fault.
  expect(findIndexFault(directory.path)).toBeUndefined();
});
