import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { castoreProgram } from "./support/castore-process.ts";
import { findCall, readSystemCalls, type SystemCall } from "./support/system-calls.ts";

const TRACED = "openat,mkdir,rename,unlink,fsync,fdatasync,syncfs,pwrite64,pwritev,write,writev";
/**
 * One that is synced while it is written, one that is written in pieces, some that are not, and
 * some that are rows of the index.
 */
const FILE_SIZES = [70_000_000, 700_000, 300_000, 60_000, 5_000, 4_096, 100, 1];

const directory = mkdtempSync(join(tmpdir(), "castore-durable-"));
const store = join(directory, "store");
const tree = join(directory, "tree");
afterAll(() => rmSync(directory, { recursive: true, force: true }));
beforeAll(() => {
  mkdirSync(join(tree, "sub"), { recursive: true });
  for (const [index, size] of FILE_SIZES.entries()) {
    writeFileSync(join(tree, index % 2 === 0 ? "sub" : ".", `${size}`), Buffer.alloc(size, size));
  }
});

/** Runs the command under strace, to its end. */
async function traced(...args: string[]): Promise<{ calls: SystemCall[]; stdout: string }> {
  const trace = join(directory, "trace");
  const strace = ["-f", "-y", "-s", "80", "-e", `trace=${TRACED}`, "-o", trace];
  const command = [process.execPath, castoreProgram(), ...args, "--store", store];
  const { stdout } = await promisify(execFile)("strace", [...strace, ...command]);
  return { calls: readSystemCalls(trace), stdout };
}

const DATA_FILE = /data\.mdb>/;
const isIndexWrite = ({ name, text }: SystemCall): boolean =>
  /^pwrite/.test(name) && DATA_FILE.test(text);
const isIndexSync = ({ name, text }: SystemCall): boolean =>
  name === "fdatasync" && DATA_FILE.test(text);

/** The last change to the index before `end`, which must be synced before `end` begins. */
function expectIndexSynced(calls: readonly SystemCall[], end: SystemCall): SystemCall {
  const last = calls.filter((call) => isIndexWrite(call) && call.ended < end.began).at(-1);
  if (last === undefined) throw new Error("nothing was written to the index");
  // The last write of a commit is its meta page, by a descriptor that syncs, or a sync follows.
  const descriptor = /^pwrite\w*\((\d+)</.exec(last.text)?.[1];
  const bySync = calls.some(
    (call) => isIndexSync(call) && call.began > last.ended && call.ended < end.began,
  );
  const byDescriptor = calls.some(
    ({ name, text }) =>
      name === "openat" && /data\.mdb", .*O_DSYNC/.test(text) && text.includes(`= ${descriptor}<`),
  );
  expect(bySync || byDescriptor).toBe(true);
  return last;
}

describe("by the order of its system calls", () => {
  it("import prints a root once data, names and rows of all below it are durable", async () => {
    const { calls, stdout } = await traced("import", tree);
    const printed = findCall(calls, /^writev?$/, /entry/);
    const meta = expectIndexSynced(calls, printed);
    const renames = calls.filter(
      ({ name, text }) => name === "rename" && /\/tmp\/.*\/blobs\//.test(text),
    );
    expect(renames).toHaveLength(FILE_SIZES.filter((size) => size > 4096).length);
    for (const rename of renames) {
      const [, temporary = "", shard = ""] =
        /"([^"]+\/tmp\/[^"]+)", "([^"]+)\/[0-9a-f]{62}"/.exec(rename.text) ?? [];
      const of = (path: string) => new RegExp(`<${path}>`);
      const writes = calls.filter(
        ({ name, text }) => /^p?writev?/.test(name) && of(temporary).test(text),
      );
      const written = Math.max(...writes.map(({ ended }) => ended));
      const data = findCall(calls, /^f(data)?sync$/, of(temporary), written);
      const names = findCall(calls, /^fsync$/, of(shard), rename.ended);
      const shards = findCall(calls, /^fsync$/, of(join(store, "blobs")));
      expect(writes.length).toBeGreaterThan(0);
      expect(data.ended).toBeLessThan(rename.began);
      expect(shards.ended).toBeLessThan(rename.began);
      // The row that makes it visible comes later, in a commit that syncs before its meta page.
      const row = calls.find((call) => isIndexWrite(call) && call.began > names.ended);
      const sync = calls.find((call) => isIndexSync(call) && call.began > (row?.ended ?? 0));
      expect(row?.began).toBeLessThan(meta.began);
      expect(sync?.ended).toBeLessThan(meta.began);
    }
    const syncs = calls.filter(
      ({ name, text }) => /^f(data)?sync$/.test(name) && text.includes(`<${store}/tmp/`),
    );
    expect(syncs).toHaveLength(renames.length + 1);
    expect(readFileSync(join(store, "format"), "latin1")).toBe("castore-store 1\n");
    expect(JSON.parse(stdout)).toMatchObject({ path: tree });
  });

  it("a store's format is synced before the store is used", async () => {
    rmSync(store, { recursive: true });
    const { calls } = await traced("import", tree);
    const format = findCall(calls, /^rename$/, /\/format\.\d+", "[^"]+\/format"/);
    const written = findCall(calls, /^fsync$/, /\/format\.\d+>/);
    const named = findCall(calls, /^fsync$/, new RegExp(`<${store}>`), format.ended);
    const parent = findCall(calls, /^fsync$/, new RegExp(`<${directory}>`), format.ended);
    const opened = findCall(calls, /^openat$/, /data\.mdb"/);
    expect(written.ended).toBeLessThan(format.began);
    for (const { ended } of [named, parent]) expect(ended).toBeLessThan(opened.began);
  });

  it("gc removes a file after the commit that takes its row, and reports after all", async () => {
    const { calls, stdout } = await traced("gc", "--json");
    const { blobsDeleted } = JSON.parse(stdout);
    expect(blobsDeleted).toBe(FILE_SIZES.length);
    const unlinks = calls.filter(
      ({ name, text }) => name === "unlink" && /\/blobs\/[0-9a-f]{2}\//.test(text),
    );
    expect(unlinks).toHaveLength(FILE_SIZES.filter((size) => size > 4096).length);
    for (const unlink of unlinks) expectIndexSynced(calls, unlink);
    const printed = findCall(calls, /^writev?$/, /blobsDeleted/);
    expectIndexSynced(calls, printed);
    for (const { ended } of unlinks) expect(ended).toBeLessThan(printed.began);
  });
});
