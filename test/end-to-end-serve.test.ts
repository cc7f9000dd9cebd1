import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type CastoreProcess, startCastore } from "./support/castore-process.ts";
import { compareTrees } from "./support/compare-trees.ts";
import { type CountingProxy, startCountingProxy } from "./support/counting-proxy.ts";
import { createNixWorld, type NixStore, type NixWorld } from "./support/nix-world.ts";

/** A real Nix pushes to castore serve, and substitutes from it, directly and by Upgrade. */
describe("nix with castore serve", () => {
  let world: NixWorld;
  let app: string;
  let app2: string;
  let serve: CastoreProcess;
  /** Stands before serve: what the bridge and plain clients ask for is counted here. */
  let wire: CountingProxy;
  let bridge: CastoreProcess;
  let serveKey: string;

  beforeAll(async () => {
    world = await createNixWorld();
    app = await world.build("app");
    app2 = await world.build("app", { version: "2" });
    const keyFile = await world.createKey("serve-1");
    serveKey = await world.publicKeyOf(keyFile);
    const args = ["--store", world.temporary("serve-store"), "--signing-key", keyFile];
    serve = await startCastore("serve", args);
    wire = await startCountingProxy(serve.url);
    bridge = await startCastore("bridge", [
      ...["--store", world.temporary("bridge-store"), "--upstream", wire.url],
      ...["--upgrade", "require", "--trusted-public-key", serveKey],
    ]);
  });
  afterAll(async () => {
    for (const it of [bridge, wire, serve, world]) await it[Symbol.asyncDispose]();
  });

  const push = (paths: readonly string[], query = "") =>
    world.run("nix", ["copy", "--store", world.store.uri, "--to", serve.url + query, ...paths]);

  async function expectEqual(target: NixStore, root: string): Promise<void> {
    for (const { path } of await world.pathInfos(world.store.uri, [root])) {
      expect(await compareTrees(world.store.fileOf(path), target.fileOf(path)), path).toEqual([]);
      await world.run("nix-store", ["--store", target.uri, "--verify-path", path]);
    }
  }

  it.each(["xz", "zstd", "none"])("nix copy --to pushes NARs as %s", async (compression) => {
    const lib = await world.build("lib", { version: compression });
    await push([lib], `?compression=${compression}`);
    const settings = { urls: [serve.url], trustedKeys: [serveKey] };
    await expectEqual(await world.substitute([lib], settings), lib);
  });

  it("nix copy --to pushes a closure, and a second time sends no NAR", async () => {
    await push([app], "?compression=zstd");
    const before = await fetch(`${serve.url}/${app.slice(11, 43)}.narinfo`);
    expect(await before.text()).toContain("\nSig: serve-1:");
    await push([app], "?compression=zstd");
  });

  it("nix substitutes the closure from serve as from any binary cache", async () => {
    const settings = { urls: [serve.url], trustedKeys: [serveKey] };
    await expectEqual(await world.substitute([app], settings), app);
  });

  it("nix path-info --store and nix store ls read it", async () => {
    const original = await world.pathInfos(world.store.uri, [app]);
    const infos = await world.pathInfos(serve.url, [app]);
    const strip = (all: typeof infos) =>
      all.map(({ path, narHash, narSize, references }) => ({
        path,
        narHash,
        narSize,
        references: [...references].sort(),
      }));
    expect(strip(infos)).toEqual(strip(original));
    const { stdout } = await world.run("nix", ["store", "ls", "--store", serve.url, "-R", app]);
    expect(stdout.trim().split("\n").sort()).toEqual([
      "./bin",
      "./bin/app",
      "./share",
      "./share/inputs",
      "./share/version",
    ]);
  });

  it("nix store copy-log pushes a build log, and nix log reads it back", async () => {
    const args = ["-q", "--deriver", app, "--store", world.store.uri];
    const deriver = (await world.run("nix-store", args)).stdout.trim();
    const store = ["--store", world.store.uri, "--to", serve.url];
    await world.run("nix", ["store", "copy-log", ...store, deriver]);
    const { stdout } = await world.run("nix", ["log", "--store", serve.url, app]);
    expect(stdout).toContain("a line in the build log");
  });

  it("by Upgrade the bridge fetches no NAR, and every path arrives as it was built", async () => {
    wire.clear();
    const settings = { urls: [bridge.url], trustedKeys: [serveKey] };
    await expectEqual(await world.substitute([app], settings), app);
    expect(wire.requests.filter(({ path }) => /^\/nar\//.test(path))).toEqual([]);
    expect(wire.requests.some(({ path }) => path.endsWith("/fetch"))).toBe(true);
  });

  it("version 2 by Upgrade costs the chunks that changed and little else", async () => {
    await push([app2], "?compression=zstd");
    wire.clear();
    const settings = { urls: [bridge.url], trustedKeys: [serveKey] };
    await expectEqual(await world.substitute([app2], settings), app2);
    const infos = await world.pathInfos(world.store.uri, [app2]);
    const payload = wire.requests.filter(({ path }) => /\/(fetch|chunks)/.test(path));
    const payloadBytes = payload.reduce((sum, { bytesDown }) => sum + bytesDown, 0);
    // Changed: a place in each half of `big` (two chunks at most each), and five small files.
    expect(payloadBytes).toBeLessThan(4 * 512 * 1024 + 5 * 1024);
    // Half of `big` is noise, which xz makes no smaller.
    expect(payloadBytes).toBeLessThan(50 * 1024 * 1024);
    // A recipe has 32 bytes of digest and a few of lengths for each chunk of 256 KiB or so.
    const narBytes = infos.reduce((sum, { narSize }) => sum + narSize, 0);
    const metadata = (narBytes / (128 * 1024)) * 48 + infos.length * 1024;
    expect(wire.bytesDown - payloadBytes).toBeLessThan(metadata + 60 * 300);
    expect(wire.requests.length).toBeLessThanOrEqual(20 + infos.length);
  });
});

describe("castore serve and uploads", () => {
  let world: NixWorld;
  let path: string;
  beforeAll(async () => {
    world = await createNixWorld();
    path = await world.build("file");
  });
  afterAll(() => world[Symbol.asyncDispose]());

  const push = (url: string, netrc?: string) =>
    world.attempt("nix", [
      ...["copy", "--store", world.store.uri, "--to", url, path],
      ...(netrc === undefined ? [] : ["--option", "netrc-file", netrc]),
    ]);

  it("without a signing key an unsigned path is refused, a signed one is taken", async () => {
    await using serve = await startCastore("serve", ["--store", world.temporary("serve-store")]);
    const refused = await push(serve.url);
    expect(refused.code).not.toBe(0);
    expect((await fetch(`${serve.url}/${path.slice(11, 43)}.narinfo`)).status).toBe(404);
    const accepted = await push(`${serve.url}?secret-key=${world.secretKeyFile}`);
    expect(accepted.stderr).not.toContain("error");
    const target = await world.substitute([path], { urls: [serve.url] });
    expect(await compareTrees(world.store.fileOf(path), target.fileOf(path))).toEqual([]);
  });

  it("with a token only those who have it may push; anyone may read", async () => {
    const tokenFile = join(world.directory, "token");
    writeFileSync(tokenFile, "a-long-secret-token\n");
    await using serve = await startCastore("serve", [
      ...["--store", world.temporary("serve-store"), "--upload-token-file", tokenFile],
    ]);
    const url = `${serve.url}?secret-key=${world.secretKeyFile}`;
    expect((await push(url)).code).not.toBe(0);
    const netrc = (password: string) => {
      const file = world.temporary("netrc");
      writeFileSync(file, `machine 127.0.0.1 login anyone password ${password}\n`);
      return file;
    };
    expect((await push(url, netrc("a-long-secret-tokem"))).code).not.toBe(0);
    const accepted = await push(url, netrc("a-long-secret-token"));
    expect(accepted.stderr).not.toContain("error");
    expect((await fetch(`${serve.url}/${path.slice(11, 43)}.narinfo`)).status).toBe(200);
  });
});
