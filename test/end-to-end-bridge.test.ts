import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type CastoreProcess, startCastore } from "./support/castore-process.ts";
import { compareTrees } from "./support/compare-trees.ts";
import { createNixWorld, type NixStore, type NixWorld } from "./support/nix-world.ts";
import { StandInCache } from "./support/stand-in-cache.ts";

/** A real Nix substitutes through the bridge from a plain xz cache, as most users will. */
describe("nix through castore bridge from a plain xz cache", () => {
  let world: NixWorld;
  let app: string;
  let app2: string;
  let cache: string;
  let upstream: StandInCache;
  let bridge: CastoreProcess;
  let store: string;

  beforeAll(async () => {
    world = await createNixWorld();
    app = await world.build("app");
    app2 = await world.build("app", { version: "2" });
    cache = await world.copyToCache([app, app2], "xz");
    upstream = await StandInCache.start({ directory: cache });
    store = world.temporary("castore-store");
    bridge = await startBridge();
  });
  afterAll(async () => {
    for (const resource of [bridge, upstream, world]) await resource[Symbol.asyncDispose]();
  });

  const startBridge = (more: readonly string[] = []) =>
    startCastore("bridge", [
      ...["--store", store, "--upstream", upstream.origin],
      ...["--trusted-public-key", world.publicKey, ...more],
    ]);

  async function expectEqual(target: NixStore, root: string): Promise<void> {
    const infos = await world.pathInfos(target.uri, [root]);
    const strip = ({ path, narHash, narSize, references, signatures }: (typeof infos)[number]) => ({
      path,
      narHash,
      narSize,
      references: [...references].sort(),
      isSigned: (signatures ?? []).some((sig) => sig.startsWith("world-1:")),
    });
    const originals = await world.pathInfos(`file://${cache}`, [root]);
    expect(infos.map(strip)).toEqual(originals.map(strip));
    for (const { path } of infos) {
      expect(await compareTrees(world.store.fileOf(path), target.fileOf(path)), path).toEqual([]);
      await world.run("nix-store", ["--store", target.uri, "--verify-path", path]);
    }
  }

  const narRequests = () => upstream.seen("nar");

  it("every path arrives as it was built, and each NAR is fetched once", async () => {
    const target = await world.substitute([app], { urls: [bridge.url] });
    await expectEqual(target, app);
    const paths = narRequests().map(({ path }) => path);
    expect(paths).toHaveLength(11);
    expect(new Set(paths).size).toBe(11);
  });

  it("a second client costs the upstream no NAR", async () => {
    upstream.resetCounts();
    await expectEqual(await world.substitute([app], { urls: [bridge.url] }), app);
    expect(narRequests()).toEqual([]);
  });

  it("narinfos are the upstream's but for what says how to fetch", async () => {
    for (const name of readdirSync(cache).filter((file) => file.endsWith(".narinfo"))) {
      const original = readFileSync(join(cache, name), "utf8").split("\n");
      const response = await fetch(`${bridge.url}/${name}`);
      expect(response.headers.get("content-type")).toBe("text/x-nix-narinfo");
      const lines = (await response.text()).split("\n");
      const isFetching = (line: string) => /^(URL|Compression|FileHash|FileSize):/.test(line);
      expect(lines.filter((line) => !isFetching(line))).toEqual(
        original.filter((line) => !isFetching(line)),
      );
      const narHash = /^NarHash: sha256:(.*)$/m.exec(original.join("\n"))?.[1];
      expect(lines.filter(isFetching).sort()).toEqual([
        "Compression: none",
        `URL: nar/${name.slice(0, 32)}-${narHash}.nar`,
      ]);
    }
  });

  it("version 2 comes whole, and the same NAR under another name costs nothing", async () => {
    upstream.resetCounts();
    await expectEqual(await world.substitute([app2], { urls: [bridge.url] }), app2);
    // New: app, data, file.conf, lib, link, relinked. `many` is new by name only.
    expect(narRequests()).toHaveLength(6);
  });

  it("a restart keeps what was fetched and every URL that was handed out", async () => {
    const urls = await narUrls(bridge.url, cache);
    await bridge.stop();
    bridge = await startBridge();
    upstream.resetCounts();
    for (const url of urls) expect((await fetch(`${bridge.url}/${url}`)).status).toBe(200);
    expect(narRequests()).toEqual([]);
  });

  it("URLs stay good when the store is lost: the bridge finds the source again", async () => {
    const urls = await narUrls(bridge.url, cache);
    await bridge.kill();
    rmSync(store, { recursive: true });
    bridge = await startBridge();
    upstream.resetCounts();
    const app = urls.find((url) => url.includes(app2.slice(11, 43))) ?? "";
    const response = await fetch(`${bridge.url}/${app}`);
    expect(response.status).toBe(200);
    expect((await response.arrayBuffer()).byteLength).toBe(
      Number(response.headers.get("content-length")),
    );
    expect(narRequests()).toHaveLength(1);
  });

  it("SIGKILL in the middle of a download loses nothing: the next try succeeds", async () => {
    const data = (await world.pathInfos(world.store.uri, [app])).find((i) => /-data$/.test(i.path));
    const hash = data?.path.slice(11, 43) ?? "";
    const text = await (await fetch(`${bridge.url}/${hash}.narinfo`)).text();
    const url = /^URL: (.*)$/m.exec(text)?.[1] ?? "";
    const response = await fetch(`${bridge.url}/${url}`);
    const reader = response.body?.getReader();
    await reader?.read();
    await bridge.kill();
    await expect(drain(reader)).rejects.toThrow();
    bridge = await startBridge();
    await expectEqual(await world.substitute([app], { urls: [bridge.url] }), app);
  });

  it("nothing but narinfos is fetched for paths that are only looked up", async () => {
    await bridge.stop();
    rmSync(store, { recursive: true });
    bridge = await startBridge();
    upstream.resetCounts();
    await world.run("nix", ["path-info", "--store", bridge.url, "-r", app]);
    expect(narRequests()).toEqual([]);
  });

  it("a path that no upstream has is a miss, and Nix goes on to the next substituter", async () => {
    const other = await world.build("odd");
    await using empty = await StandInCache.start();
    await using lonely = await startCastore("bridge", [
      ...["--store", world.temporary("castore-store"), "--upstream", empty.origin],
      ...["--trusted-public-key", world.publicKey],
    ]);
    const target = await world.substitute([other], { urls: [lonely.url, upstream.origin] });
    expect(await compareTrees(world.store.fileOf(other), target.fileOf(other))).toEqual([]);
  });

  it("a path signed by no trusted key is a miss", async () => {
    await using wary = await startCastore("bridge", [
      ...["--store", world.temporary("castore-store"), "--upstream", upstream.origin],
      ...["--trusted-public-key", "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="],
    ]);
    const response = await fetch(`${wary.url}/${app.slice(11, 43)}.narinfo`);
    expect(response.status).toBe(404);
    expect(wary.stderr + wary.stdout).toMatch(/signature|trusted/i);
  });
});

async function narUrls(bridge: string, cache: string): Promise<string[]> {
  const names = readdirSync(cache).filter((file) => file.endsWith(".narinfo"));
  const texts = names.map(async (name) => (await fetch(`${bridge}/${name}`)).text());
  return (await Promise.all(texts)).map((text) => /^URL: (.*)$/m.exec(text)?.[1] ?? "");
}

async function drain(reader: ReadableStreamDefaultReader<Uint8Array> | undefined): Promise<void> {
  while (reader !== undefined && !(await reader.read()).done);
}
