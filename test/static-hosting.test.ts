import { createHash } from "node:crypto";
import { once } from "node:events";
import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { connect } from "node:http2";
import { join } from "node:path";
import { connect as tlsConnect } from "node:tls";
import {
  decodeSignedPathInfo,
  nixHashDigits,
  nixHashOf,
  parseCacheInfo,
  TrustedRootKeys,
} from "@castore/nar-bridge";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { runCastore, startCastore } from "./support/castore-process.ts";
import { compareTrees } from "./support/compare-trees.ts";
import { startNginx } from "./support/nginx.ts";
import { createNixWorld, type NixStore, type NixWorld, readNarInfo } from "./support/nix-world.ts";
import {
  filesOf,
  hashesOf,
  killedExport,
  operationsBlock,
  staticNginx,
} from "./support/static-host.ts";
import { createThrowAwayCertificate } from "./support/throw-away-certificate.ts";

const BIG = { bigBytes: String(6 << 20) };

describe("castore export", () => {
  let world: NixWorld;
  let app: string;
  let app2: string;
  let cache: string;
  let store: string;
  let exported: string;
  let paths: readonly string[];
  /** The same for a closure of two paths, without many small files: each is two fsyncs. */
  let small: string;
  let small2: string;
  let smallExported: string;

  const run = async (...args: readonly string[]) => {
    const output = await runCastore([...args, "--store", store]);
    expect(output).toMatchObject({ code: 0 });
    return output;
  };
  const runExport = (to: string, ...args: readonly string[]) =>
    run("export", "--to", to, "--compression", "zstd:3", ...args);

  beforeAll(async () => {
    world = await createNixWorld();
    app = await world.build("app", BIG);
    app2 = await world.build("app", { ...BIG, version: "2" });
    cache = await world.copyToCache([app, app2], "xz");
    store = world.temporary("castore-store");
    const from = ["--upstream", `file://${cache}`, "--trusted-public-key", world.publicKey];
    await run("substitute", ...from, app, app2);
    [small = "", small2 = ""] = await Promise.all(
      ["1", "2"].map((version) => world.build("relinked", { ...BIG, version })),
    );
    smallExported = world.temporary("exported");
    await runExport(smallExported, small);
    paths = (await world.pathInfos(world.store.uri, [app])).map(({ path }) => path);
    exported = world.temporary("exported");
    await runExport(exported, app);
  });
  afterAll(() => world[Symbol.asyncDispose]());

  async function expectEqual(target: NixStore, root: string): Promise<void> {
    for (const { path } of await world.pathInfos(world.store.uri, [root])) {
      expect(await compareTrees(world.store.fileOf(path), target.fileOf(path)), path).toEqual([]);
      await world.run("nix-store", ["--store", target.uri, "--verify-path", path]);
    }
  }

  /** `castore substitute` into a new store. */
  const fetchFrom = (url: string, into: string, ...more: readonly string[]) =>
    runCastore([
      ...["substitute", "--store", into, "--upstream", url],
      ...["--trusted-public-key", world.publicKey, ...more],
    ]);

  it("narinfos say what the originals say but for how to fetch, and name files as they are", () => {
    for (const path of paths) {
      const { URL: url = "", FileHash, FileSize, Compression, ...rest } = fields(exported, path);
      const { URL: _u, FileHash: _h, FileSize: _s, Compression: _c, ...want } = fields(cache, path);
      expect(rest).toEqual(want);
      const bytes = readFileSync(join(exported, url));
      const hash = createHash("sha256").update(bytes).digest();
      expect({ FileHash, FileSize, Compression, url }).toEqual({
        FileHash: nixHashOf("sha256", hash),
        FileSize: String(bytes.byteLength),
        Compression: "zstd",
        url: `nar/${rest.NarHash?.slice("sha256:".length)}.nar.zst`,
      });
      expect(nixHashDigits(nixHashOf("sha256", hash))).toHaveLength(52);
    }
    expect(readdirSync(exported).filter((name) => name.endsWith(".narinfo"))).toHaveLength(11);
    expect(parseCacheInfo(readFileSync(join(exported, "nix-cache-info"), "utf8"))).toMatchObject({
      storeDir: "/nix/store",
      upgrades: [{ protocol: "castore/1", url: "./" }],
    });
  });

  it("the same closure gives the same bytes, and a second run touches no file", async () => {
    const before = filesOf(smallExported);
    await runExport(smallExported, small);
    expect(filesOf(smallExported)).toEqual(before);
    const again = world.temporary("exported");
    await runExport(again, small);
    const contents = (all: typeof before) => [...all].map(([path, { hash }]) => [path, hash]);
    expect(contents(filesOf(again))).toEqual(contents(before));
  });

  it("a second run puts back what is lost", async () => {
    const copy = world.temporary("exported");
    cpSync(smallExported, copy, { recursive: true });
    const before = hashesOf(copy);
    for (const path of before.keys()) {
      if (/^(nar|recipe|dirs|blobs)\//.test(path)) rmSync(join(copy, path));
    }
    await runExport(copy, small);
    expect(hashesOf(copy)).toEqual(before);
  });

  it("nix substitutes from the directory and from nginx as from any cache", async () => {
    const fromFile = await world.substitute([app], { urls: [`file://${exported}`] });
    await expectEqual(fromFile, app);
    await using nginx = await staticNginx(exported);
    await expectEqual(await world.substitute([app], { urls: [nginx.url] }), app);
    expect(nginx.requests().every(({ line }) => !line.includes("/chunks/"))).toBe(true);
    const listing = ["store", "ls", "--store", nginx.url, "-R", app];
    expect((await world.run("nix", listing)).stdout).toContain("./share/version");
  });

  it("xz is as good, and a directory that has NARs already keeps them", async () => {
    const directory = world.temporary("exported");
    const lib = paths.find((path) => path.endsWith("-lib")) ?? "";
    await run("export", "--to", directory, "--compression", "xz", lib);
    expect(readNarInfo(directory, lib).get("Compression")).toBe("xz");
    const before = hashesOf(directory);
    await runExport(directory, lib);
    expect(hashesOf(directory)).toEqual(before);
    await expectEqual(await world.substitute([lib], { urls: [`file://${directory}`] }), lib);
  });

  it("the bridge asks for the metadata of a closure once, and for each chunk once", async () => {
    await using nginx = await staticNginx(exported);
    await using bridge = await startCastore("bridge", [
      ...["--store", world.temporary("bridge-store"), "--upstream", nginx.url],
      ...["--upgrade", "require", "--trusted-public-key", world.publicKey],
    ]);
    await expectEqual(await world.substitute([app], { urls: [bridge.url] }), app);
    const lines = nginx.requests().map(({ line }) => line.split(" ")[1] ?? "");
    const count = (pattern: RegExp) => lines.filter((path) => pattern.test(path)).length;
    expect(count(/^\/(nar|pathinfo|dirs|recipe)\//)).toBe(0);
    expect(count(/^\/closure\//)).toBe(1);
    expect(count(/narinfo$/)).toBe(paths.length);
    const chunks = lines.filter((path) => path.startsWith("/chunks/"));
    expect(new Set(chunks).size).toBe(chunks.length);
    // The closure, and what the server is.
    expect(lines.length - chunks.length - paths.length).toBe(3);
  });

  it("castore substitute asks for a closure once, and version 2 costs what changed", async () => {
    const both = world.temporary("exported");
    await runExport(both, app, app2);
    await using nginx = await staticNginx(both);
    const into = world.temporary("castore-store");
    expect(await fetchFrom(nginx.url, into, "--upgrade", "require", app)).toMatchObject({
      code: 0,
    });
    const metadata = nginx.requests().filter(({ line }) => !line.includes("/chunks/"));
    expect(metadata.length).toBeLessThanOrEqual(6);
    const before = nginx.requests().length;
    expect(await fetchFrom(nginx.url, into, "--upgrade", "require", app2)).toMatchObject({
      code: 0,
    });
    const chunks = nginx.requests().slice(before);
    // `big` changes in two places (two chunks at most each), and in six small files.
    expect(chunks.length).toBeLessThanOrEqual(4 + 6 + 6);
    const bytes = chunks.reduce((sum, request) => sum + request.bytes, 0);
    expect(bytes).toBeLessThan(4 * 512 * 1024 + 100_000);
  });

  it("a path of a closure that has no file of its own is found path by path", async () => {
    const lib = paths.find((path) => path.endsWith("-relinked")) ?? "";
    await using nginx = await staticNginx(exported);
    const into = world.temporary("castore-store");
    expect(await fetchFrom(nginx.url, into, "--upgrade", "require", lib)).toMatchObject({
      code: 0,
    });
    const asked = nginx.requests().filter(({ line }) => /\/(pathinfo|dirs|recipe)\//.test(line));
    // relinked and lib.
    expect(asked).toHaveLength(6);
  });

  it("a chunk that was cut short costs the plain NAR, and nothing else", async () => {
    const damaged = world.temporary("exported");
    cpSync(exported, damaged, { recursive: true });
    for (const [path, { size }] of filesOf(damaged)) {
      if (!path.startsWith("chunks/") || size < 100_000) continue;
      writeFileSync(join(damaged, path), readFileSync(join(damaged, path)).subarray(0, size / 2));
    }
    await using nginx = await staticNginx(damaged);
    await using bridge = await startCastore("bridge", [
      ...["--store", world.temporary("bridge-store"), "--upstream", nginx.url],
      ...["--trusted-public-key", world.publicKey],
    ]);
    await expectEqual(await world.substitute([app], { urls: [bridge.url] }), app);
  });

  it("a server that dies in the middle is an error; with the next one it goes on", async () => {
    const into = world.temporary("castore-store");
    const chunksOf = (requests: readonly { readonly line: string }[]) =>
      requests.filter(({ line }) => line.includes("/chunks/")).map(({ line }) => line);
    let first: readonly string[] = [];
    {
      await using nginx = await staticNginx(exported, "limit_rate 200k;");
      const failed = fetchFrom(nginx.url, into, "--upgrade", "require", app);
      while (chunksOf(nginx.requests()).length < 20) await new Promise(setImmediate);
      first = chunksOf(nginx.requests());
      await nginx[Symbol.asyncDispose]();
      expect(await failed).toMatchObject({ code: 1 });
    }
    expect(first.length).toBeGreaterThanOrEqual(20);
    await using nginx = await staticNginx(exported);
    expect(await fetchFrom(nginx.url, into, "--upgrade", "require", app)).toMatchObject({
      code: 0,
    });
    const output = await fetchFrom(nginx.url, into, "--json", app);
    expect(output.stdout.match(/"isPresent":true/g)).toHaveLength(11);
  });

  it("a killed export left only whole paths, and the next one completes it", async () => {
    for (const narInfos of [1, 6]) {
      const directory = world.temporary("exported");
      mkdirSync(directory);
      const args = ["--store", store, "--to", directory, "--compression", "zstd:3", app];
      await killedExport(directory, args, narInfos);
      const whole = paths.filter((path) => hasNarInfo(directory, path));
      expect(whole.length).toBeGreaterThanOrEqual(narInfos);
      expect(whole.length).toBeLessThan(paths.length);
      await world.substitute(whole, { urls: [`file://${directory}`] });
      await using nginx = await staticNginx(directory);
      const into = world.temporary("castore-store");
      const fetched = await fetchFrom(nginx.url, into, "--upgrade", "require", ...whole);
      expect(fetched).toMatchObject({ code: 0 });
      await runExport(directory, app);
      const left = [...hashesOf(directory)].filter(([path]) => !path.startsWith(".tmp-"));
      expect(left).toEqual([...hashesOf(exported)]);
    }
  });

  it("--prune leaves what these closures alone would have written, and strangers", async () => {
    const directory = world.temporary("exported");
    await runExport(directory, small, small2);
    writeFileSync(join(directory, "index.html"), "hello");
    mkdirSync(join(directory, "log"));
    writeFileSync(join(directory, "log", "some.drv"), "a log");
    expect(hashesOf(directory).size).toBeGreaterThan(hashesOf(smallExported).size + 2);
    const { stdout } = await runExport(directory, "--prune", small);
    expect(stdout).toMatch(/^2 paths exported, [1-9]\d* files removed\n$/);
    const left = hashesOf(directory);
    expect(left.delete("index.html") && left.delete("log/some.drv")).toBe(true);
    expect(left).toEqual(hashesOf(smallExported));
  });

  it("--root-signing-key signs every root, and names its key", async () => {
    const keyFile = await world.createKey("roots-1");
    const directory = world.temporary("exported");
    await runExport(directory, "--root-signing-key", keyFile, small);
    const { rootKeys } = JSON.parse(readFileSync(join(directory, "info"), "utf8"));
    expect(rootKeys).toEqual([expect.stringMatching(/^roots-1:/)]);
    const trusted = TrustedRootKeys.parse(rootKeys);
    for (const { path } of await world.pathInfos(world.store.uri, [small])) {
      const bytes = readFileSync(join(directory, "pathinfo", path.slice(11, 43)));
      expect(trusted.verify(decodeSignedPathInfo(bytes))?.text, path).toBe(rootKeys[0]);
    }
  });

  it("what is not in the store is named, and nothing is written", async () => {
    const directory = world.temporary("exported");
    const missing = "/nix/store/00000000000000000000000000000000-missing";
    const args = ["export", "--store", store, "--to", directory, missing];
    const output = await runCastore(args);
    expect(output.code).toBe(1);
    expect(output.stderr).toContain("00000000000000000000000000000000");
    expect(() => statSync(directory)).toThrow();
    const level = await runCastore(["export", "--to", directory, "--compression", "zstd:23", app]);
    expect(level).toMatchObject({ code: 2 });
  });

  it("over HTTP/2 and TLS, with the server around it as the page has it", async () => {
    const { cert, key } = createThrowAwayCertificate();
    const files = world.temporary("nginx");
    mkdirSync(files);
    for (const [name, text] of Object.entries({ cert, key }))
      writeFileSync(join(files, name), text);
    writeFileSync(join(files, "static"), operationsBlock("nginx castore-static.conf"));
    const socket = join(files, "socket");
    const here = (text: string) =>
      text
        .replace("listen 443 ", `listen unix:${socket} `)
        .replace("/etc/ssl/cache.pem", join(files, "cert"))
        .replace("/etc/ssl/cache.key", join(files, "key"))
        .replace("/etc/nginx/castore-static.conf", join(files, "static"))
        .replace("/srv/cache", exported);
    {
      await using _nginx = await startNginx({
        directory: exported,
        http: here(operationsBlock("nginx proxy")),
      });
    }
    const http = here(operationsBlock("nginx server"));
    await using _nginx = await startNginx({ directory: exported, http });
    const options = { path: socket, ca: cert, servername: "localhost", ALPNProtocols: ["h2"] };
    const session = connect("https://localhost", { createConnection: () => tlsConnect(options) });
    try {
      const streams = paths.map((path) =>
        session.request({ ":path": `/${path.slice(11, 43)}.ls` }),
      );
      const heads = await Promise.all(streams.map((stream) => once(stream, "response")));
      // The listing of `odd` would not be UTF-8.
      const statuses = heads.map(([head]) => head[":status"]).sort();
      expect(statuses).toEqual([...Array(10).fill(200), 404]);
    } finally {
      session.destroy();
    }
  });

  it("nginx as the page has it says how long each file may be kept", async () => {
    await using nginx = await staticNginx(exported);
    const files = [...hashesOf(exported).keys()];
    const ask = async (pattern: RegExp) => {
      const path = files.find((file) => pattern.test(file)) ?? "absent";
      const { status, headers } = await fetch(`${nginx.url}/${path}`);
      const names = ["content-type", "cache-control", "content-encoding"];
      return [status, ...names.map((name) => headers.get(name))];
    };
    const forever = "public, max-age=31536000, immutable";
    expect(await ask(/^chunks/)).toEqual([200, "application/x-castore", forever, null]);
    expect(await ask(/^recipe/)).toEqual([200, "application/x-castore", forever, null]);
    expect(await ask(/^nar\//)).toEqual([200, "application/x-nix-nar", forever, null]);
    expect(await ask(/^pathinfo/)).toEqual([200, "application/x-castore", "max-age=3600", null]);
    expect(await ask(/narinfo$/)).toEqual([200, "text/x-nix-narinfo", "max-age=3600", null]);
    expect(await ask(/^info$/)).toEqual([200, "application/json", "max-age=300", null]);
    expect((await ask(/^nothing$/)).slice(0, 1)).toEqual([404]);
    expect((await ask(/^nothing$/))[2]).toBeNull();
  });
});

function fields(cache: string, path: string): Readonly<Record<string, string>> {
  return Object.fromEntries(readNarInfo(cache, path));
}

function hasNarInfo(directory: string, path: string): boolean {
  return readdirSync(directory).includes(`${path.slice(11, 43)}.narinfo`);
}
