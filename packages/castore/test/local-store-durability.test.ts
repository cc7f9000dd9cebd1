import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import {
  findCall as find,
  readSystemCalls,
  type SystemCall,
} from "../../../test/support/system-calls.ts";
import { loadFileSystemSync } from "../src/files/file-system-sync.ts";
import { startStoreProcess, withMount } from "./store-process.ts";
import { createTemporaryDirectory } from "./temporary-directory.ts";

const TRACED =
  "openat,mkdir,rename,unlink,rmdir,fsync,fdatasync,syncfs,pwrite64,pwritev,write,msync";

/** The system calls of a process that runs `script` on a store. */
async function traced(script: string): Promise<SystemCall[]> {
  await using directory = await createTemporaryDirectory();
  return await tracedIn(directory.path, script);
}

async function tracedIn(path: string, script: string): Promise<SystemCall[]> {
  await using directory = await createTemporaryDirectory();
  const trace = join(directory.path, "trace");
  const wrapper = ["strace", "-f", "-y", "-s", "64", "-e", `trace=${TRACED}`, "-o", trace];
  const { ended, lines } = startStoreProcess(join(path, "store"), script, { wrapper });
  for await (const _ of lines);
  expect(await ended).toBe("");
  return readSystemCalls(trace);
}

function said(calls: readonly SystemCall[], line: string): SystemCall {
  return find(calls, /^write$/, new RegExp(`"${line}\\\\n"`));
}

test("a put syncs data, renames, syncs the directory and the index, then resolves", async () => {
  const calls = await traced(`
    await store.blobs.put([Buffer.alloc(10)]);
    say("begin");
    await store.blobs.put([Buffer.alloc(10000, 1)]);
    say("put");
    await store.close();
  `);
  const begin = said(calls, "begin");
  const data = find(calls, /^fsync$/, /\/tmp\//, begin.ended);
  const rename = find(calls, /^rename/, /\/blobs\//, begin.ended);
  const shard = find(calls, /^fsync$/, /\/blobs\/[0-9a-f]{2}>/, begin.ended);
  const shards = find(calls, /^fsync$/, /\/blobs>/, begin.ended);
  const page = find(calls, /^pwrite/, /data\.mdb>/, begin.ended);
  const index = find(calls, /^fdatasync$/, /data\.mdb>/, begin.ended);
  const meta = calls.filter(({ name, text }) => /^pwrite/.test(name) && /data\.mdb>/.test(text));
  const put = said(calls, "put");
  expect(data.ended).toBeLessThan(rename.began);
  expect(rename.ended).toBeLessThan(shard.began);
  expect(shard.ended).toBeLessThan(page.began);
  expect(shards.ended).toBeLessThan(page.began);
  expect(page.ended).toBeLessThan(index.began);
  // The meta page makes the commit visible; it is written through a descriptor that syncs.
  const last = meta.filter(({ ended }) => ended < put.began).at(-1);
  expect(last?.began).toBeGreaterThan(index.ended);
  const synced = calls.some(
    ({ name, text, began }) =>
      name === "openat" && /data\.mdb".*O_DSYNC/.test(text) && began < begin.began,
  );
  const syncedAfter = calls.some(
    ({ name, text, began, ended }) =>
      name === "fdatasync" &&
      /data\.mdb>/.test(text) &&
      began > (last?.ended ?? 0) &&
      ended < put.began,
  );
  expect(synced || syncedAfter).toBe(true);
});

const MANY_FILES = `
  say("begin");
  const blobs = Array.from({ length: 200 }, (_, i) => Buffer.alloc(5000 + i, "file " + i));
  await Promise.all(blobs.map((blob) => store.blobs.put([blob])));
  say("put");
  await store.close();
`;

/** Of each file that was put: its last write, and what gave it its name. */
function placedFiles(calls: readonly SystemCall[]) {
  const renames = calls.filter(({ name, text }) => name === "rename" && text.includes("/blobs/"));
  return renames.map((rename) => {
    const [, temporary = "", shard = ""] = /"([^"]+)", "([^"]+)\/[^/"]+"/.exec(rename.text) ?? [];
    const written = find(calls, /^p?write/, new RegExp(`<${temporary}>`));
    return { temporary, shard, written, rename };
  });
}

test("many files put at once share a sync before their names, and one after", async () => {
  const calls = await traced(MANY_FILES);
  const placed = placedFiles(calls);
  expect(placed).toHaveLength(200);
  // What this file system can do is what is right for it.
  if ((await loadFileSystemSync(tmpdir())) === undefined) return expectEachSynced(calls);
  for (const { written, rename } of placed) {
    const data = find(calls, /^syncfs$/, /= 0$/, written.ended);
    const names = find(calls, /^(syncfs|fsync)$/, /= 0$/, rename.ended);
    const shards = find(calls, /^fsync$/, /\/blobs>/);
    const page = find(calls, /^pwrite/, /data\.mdb>/, rename.ended);
    expect(data.ended).toBeLessThan(rename.began);
    expect(shards.ended).toBeLessThan(rename.began);
    expect(names.ended).toBeLessThan(page.began);
  }
  expect(calls.filter(({ name }) => name === "syncfs").length).toBeLessThan(20);
  expect(calls.filter(({ text }) => /^f(data)?sync.*store\/tmp\//.test(text))).toEqual([]);
});

test("where no sync of a file system is to be trusted, each file is synced", async () => {
  await using directory = await createTemporaryDirectory();
  await withMount(directory.path, ["-t", "tmpfs", "tmpfs"], async () => {
    const calls = await tracedIn(directory.path, MANY_FILES);
    expect(calls.filter(({ name }) => name === "syncfs")).toEqual([]);
    expectEachSynced(calls);
  });
});

function expectEachSynced(calls: readonly SystemCall[]): void {
  const placed = placedFiles(calls);
  expect(placed).toHaveLength(200);
  for (const { temporary, shard, written, rename } of placed) {
    const data = find(calls, /^fsync$/, new RegExp(`<${temporary}>`), written.ended);
    const names = find(calls, /^fsync$/, new RegExp(`<${shard}>`), rename.ended);
    const page = find(calls, /^pwrite/, /data\.mdb>/, rename.ended);
    expect(data.ended).toBeLessThan(rename.began);
    expect(names.ended).toBeLessThan(page.began);
  }
}

test("small blobs, directories and roots touch no file but the index, and sync it", async () => {
  const calls = await traced(`
    await store.blobs.put([Buffer.alloc(10)]);
    say("begin");
    const { digest, size } = await store.blobs.put([Buffer.alloc(4096, 1)]);
    say("put");
    const node = { type: "file", digest, size, executable: false };
    await store.roots.put([{ key: "key", node, references: [], payload: Buffer.alloc(0) }]);
    say("rooted");
    await store.close();
  `);
  const spans = [
    [said(calls, "begin"), said(calls, "put")],
    [said(calls, "put"), said(calls, "rooted")],
  ] as const;
  for (const [from, to] of spans) {
    const within = calls.filter(({ began, ended }) => began > from.ended && ended < to.began);
    expect(within.some(({ name, text }) => name === "fdatasync" && /data\.mdb>/.test(text))).toBe(
      true,
    );
    expect(within.filter(({ text }) => /store\/(tmp|blobs)\//.test(text))).toEqual([]);
  }
});

test("a hundred puts at once share commits and syncs of the index", async () => {
  const calls = await traced(`
    await store.blobs.put([Buffer.alloc(10)]);
    say("begin");
    const blobs = Array.from({ length: 100 }, (_, i) => Buffer.from("blob " + i));
    await Promise.all(blobs.map((blob) => store.blobs.put([blob])));
    say("put");
    await store.close();
  `);
  const [begin, put] = [said(calls, "begin"), said(calls, "put")];
  const syncs = calls.filter(
    ({ name, text, began, ended }) =>
      name === "fdatasync" && /data\.mdb>/.test(text) && began > begin.ended && ended < put.began,
  );
  expect(syncs.length).toBeGreaterThan(0);
  expect(syncs.length).toBeLessThan(10);
});

test("a collection commits that a blob is gone before it removes its file", async () => {
  const calls = await traced(`
    await store.blobs.put([Buffer.alloc(10000, 1)]);
    say("begin");
    await store.collectGarbage();
    say("collected");
    await store.close();
  `);
  const begin = said(calls, "begin");
  const unlink = find(calls, /^unlink/, /\/blobs\/[0-9a-f]{2}\//, begin.ended);
  // Condemned, deleted: two commits at least.
  const syncs = calls.filter(
    ({ name, text, began, ended }) =>
      name === "fdatasync" &&
      /data\.mdb>/.test(text) &&
      began > begin.ended &&
      ended < unlink.began,
  );
  expect(syncs.length).toBeGreaterThanOrEqual(2);
});
