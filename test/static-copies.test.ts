import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  createObjectStoreBlobService,
  createObjectStoreDirectoryService,
  type Digest,
  type Directory,
  openFileObjectStore,
  openLocalStore,
  walkFiles,
} from "@castore/castore";
import { decodeSignedPathInfo } from "@castore/nar-bridge";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { runCastore } from "./support/castore-process.ts";
import { createNixWorld, type NixWorld } from "./support/nix-world.ts";
import { filesOf, hashesOf, killedScript, runScript, staticNginx } from "./support/static-host.ts";

/** Copies of an exported closure of two paths, and of its second version beside it. */
describe("an export that is copied", () => {
  let world: NixWorld;
  let store: string;
  let first: string;
  let second: string;
  let firstExported: string;
  let bothExported: string;

  const run = async (...args: readonly string[]) =>
    expect(await runCastore([...args, "--store", store])).toMatchObject({ code: 0 });
  const runExport = (to: string, ...args: readonly string[]) =>
    run("export", "--to", to, "--compression", "zstd:3", ...args);
  const narInfosIn = (directory: string) =>
    readdirSync(directory).filter((name) => /^[^.].*\.narinfo$/.test(name));

  /** Every narinfo there is good for Nix, and for castore substitute, or this rejects. */
  async function expectWhole(directory: string): Promise<void> {
    const hashes = narInfosIn(directory).map((name) => name.slice(0, 32));
    const infos = await world.pathInfos(world.store.uri, [first, second]);
    const paths = infos
      .map(({ path }) => path)
      .filter((path) => hashes.includes(path.slice(11, 43)));
    expect(paths.length).toBe(hashes.length);
    if (paths.length === 0) return;
    await world.substitute(paths, { urls: [`file://${directory}`] });
    await using nginx = await staticNginx(directory);
    const output = await runCastore([
      ...["substitute", "--store", world.temporary("castore-store"), "--upstream", nginx.url],
      ...["--upgrade", "require", "--trusted-public-key", world.publicKey, ...paths],
    ]);
    expect(output).toMatchObject({ code: 0 });
  }

  beforeAll(async () => {
    world = await createNixWorld();
    first = await world.build("relinked");
    second = await world.build("relinked", { version: "2" });
    store = world.temporary("castore-store");
    const cache = await world.copyToCache([first, second], "none");
    const from = ["--upstream", `file://${cache}`, "--trusted-public-key", world.publicKey];
    await run("substitute", ...from, first, second);
    firstExported = world.temporary("exported");
    await runExport(firstExported, first);
    bothExported = world.temporary("exported");
    cpSync(firstExported, bothExported, { recursive: true, preserveTimestamps: true });
    await runExport(bothExported, first, second);
  });
  afterAll(() => world[Symbol.asyncDispose]());

  it("has as many files as the page says", () => {
    const files = [...hashesOf(firstExported).keys()];
    const count = (pattern: RegExp) => files.filter((file) => pattern.test(file)).length;
    const blobs = count(/^blobs/);
    // Two of 900,000 and 1,400,000 bytes; the second has its chunks in both forms.
    expect(count(/^chunks/)).toBeGreaterThan(blobs);
    expect(count(/^chunks/)).toBeLessThanOrEqual(blobs + (0.9 + 2 * 1.4) * 4 + 4);
    expect(count(/^outboard/)).toBe(1);
    expect(files.length - count(/^(chunks|blobs|outboard)/)).toBe(7 * 2 + 2 + 2);
  });

  it("rsync copies it in two passes, and takes away what was pruned", async () => {
    const directory = world.temporary("exported");
    const server = world.temporary("server");
    cpSync(bothExported, directory, { recursive: true });
    mkdirSync(server);
    const env = { DIR: directory, SERVER: server };
    writeFileSync(join(directory, ".tmp-1"), "not yet");
    await runScript("rsync-add", env);
    rmSync(join(directory, ".tmp-1"));
    expect(hashesOf(server)).toEqual(hashesOf(directory));
    mkdirSync(join(server, "log"));
    writeFileSync(join(server, "log", "some.drv"), "a log");
    await runExport(directory, "--prune", first);
    await runScript("rsync-prune", env);
    const left = hashesOf(server);
    expect(left.delete("log/some.drv")).toBe(true);
    expect(left).toEqual(hashesOf(firstExported));
  });

  it.each([0.1, 0.5, 0.9])(
    "killed at %d of the files, rsync leaves no part of a path",
    async (at) => {
      const server = world.temporary("server");
      cpSync(firstExported, server, { recursive: true, preserveTimestamps: true });
      const env = { DIR: bothExported, SERVER: server };
      const count = (directory: string) => readdirSync(directory, { recursive: true }).length;
      const [before, after] = [count(server), count(bothExported)];
      await killedScript("rsync-add", env, () => count(server) >= before + at * (after - before));
      expect(count(server)).toBeLessThan(after);
      await expectWhole(server);
      // Only removes, whatever the directory has that the server does not.
      const narInfos = narInfosIn(server);
      await runScript("rsync-prune", env);
      expect(narInfosIn(server)).toEqual(narInfos);
      await expectWhole(server);
      await runScript("rsync-add", env);
      await runScript("rsync-prune", env);
      expect(hashesOf(server)).toEqual(hashesOf(bothExported));
    },
  );

  it("a bucket of snix becomes a cache, and no object of it is touched", async () => {
    const bucket = world.temporary("bucket");
    await using objects = await openFileObjectStore(bucket);
    const blobs = createObjectStoreBlobService(objects, { zstdLevel: 7 });
    const directories = createObjectStoreDirectoryService(objects);
    await using local = await openLocalStore({ path: store });
    for (const { path } of await world.pathInfos(world.store.uri, [first])) {
      const file = join(firstExported, "pathinfo", path.slice(11, 43));
      const { node } = decodeSignedPathInfo(readFileSync(file));
      if (node.type !== "directory") throw new Error(`${path} is no directory`);
      const get = (digest: Digest) => local.directories.get(digest);
      for await (const { digest } of walkFiles(node, get)) {
        await using reader = await local.blobs.open(digest);
        if (reader !== undefined) await blobs.put(reader.stream(0, reader.size));
      }
      const closure: Directory[] = [];
      for await (const directory of local.directories.getClosure(node.digest)) {
        closure.unshift(directory);
      }
      await directories.putClosure(closure);
    }
    const before = filesOf(bucket);
    await runExport(bucket, first);
    const after = filesOf(bucket);
    for (const [path, state] of before) expect(after.get(path), path).toEqual(state);
    expect([...after.keys()]).toEqual([...hashesOf(firstExported).keys()]);
    await expectWhole(bucket);
  });
});
