import { readdirSync, readFileSync } from "node:fs";
import { request as httpRequest } from "node:http";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { CacheFault } from "./support/cache-fault.ts";
import { type CastoreProcess, startCastore } from "./support/castore-process.ts";
import { compareTrees } from "./support/compare-trees.ts";
import { type CacheCompression, createNixWorld, type NixWorld } from "./support/nix-world.ts";
import { StandInCache } from "./support/stand-in-cache.ts";

/** What real clients do when a cache misbehaves, so that behind the bridge they need not. */
describe("nix behind the bridge, upstreams misbehaving", () => {
  let world: NixWorld;
  let lib: string;
  let narInfoPath: string;
  let cache: string;
  beforeAll(async () => {
    world = await createNixWorld();
    lib = await world.build("lib");
    narInfoPath = `/${lib.slice(11, 43)}.narinfo`;
    cache = await world.copyToCache([lib], "xz");
  });
  afterAll(() => world[Symbol.asyncDispose]());

  const startBridge = (...upstreams: readonly StandInCache[]): Promise<CastoreProcess> =>
    startCastore("bridge", [
      ...["--store", world.temporary("castore-store")],
      ...upstreams.flatMap(({ origin }) => ["--upstream", origin]),
      ...["--trusted-public-key", world.publicKey],
    ]);

  async function expectSubstituted(...urls: readonly string[]): Promise<void> {
    const target = await world.substitute([lib], { urls });
    expect(await compareTrees(world.store.fileOf(lib), target.fileOf(lib))).toEqual([]);
  }

  /** The narinfo in the cache with lines replaced, as an object of a stand-in. */
  const changedNarInfo = (pattern: RegExp, replacement: string) => {
    const text = readFileSync(join(cache, narInfoPath), "utf8");
    expect(text).toMatch(pattern);
    return { [narInfoPath]: text.replace(pattern, replacement) };
  };

  describe("nix-cache-info", () => {
    it("is answered while the upstream is down, or clients would drop the cache", async () => {
      await using upstream = await StandInCache.start({ directory: cache });
      upstream.fail(() => true, { kind: "status", status: 500 });
      await using bridge = await startBridge(upstream);
      const response = await fetch(`${bridge.url}/nix-cache-info`);
      expect(response.status).toBe(200);
      expect(response.headers.get("content-type")).toBe("text/x-nix-cache-info");
      const lines = (await response.text()).split("\n");
      expect(lines).toEqual(
        expect.arrayContaining(["StoreDir: /nix/store", "WantMassQuery: 1", "Priority: 30"]),
      );
    });

    it.each(["Priority: abc", "Priority: 99999999999999999999", "WantMassQuery: maybe", "Odd: 1"])(
      "with the line %j at the upstream reaches no client",
      async (line) => {
        const info = `StoreDir: /nix/store\n${line}\n`;
        const objects = { "/nix-cache-info": info };
        await using upstream = await StandInCache.start({ directory: cache, objects });
        await using bridge = await startBridge(upstream);
        expect(await (await fetch(`${bridge.url}/nix-cache-info`)).text()).not.toContain(line);
        await expectSubstituted(bridge.url);
      },
    );
  });

  describe("a narinfo request", () => {
    const faults: readonly (readonly [string, CacheFault])[] = [
      ["500", { kind: "status", status: 500 }],
      ["503", { kind: "status", status: 503, headers: { "retry-after": "600" } }],
      ["403", { kind: "status", status: 403 }],
      ["401", { kind: "status", status: 401 }],
      ["a closed connection", { kind: "reset" }],
      ["a login page", { kind: "html" }],
      ["half an answer", { kind: "cut", afterBytes: 50 }],
      ["silence", { kind: "hang" }],
    ];
    it.each(faults)("is a 404 where the upstream answers %s, and nix goes on", async (_, fault) => {
      await using upstream = await StandInCache.start({ directory: cache });
      await using good = await StandInCache.start({ directory: cache });
      upstream.fail("narinfo", fault);
      await using bridge = await startBridge(upstream);
      const signal = AbortSignal.timeout(7_000);
      const response = await fetch(`${bridge.url}${narInfoPath}`, { signal });
      expect(response.status).toBe(404);
      await expectSubstituted(bridge.url, good.origin);
      expect(good.seen("nar")).toHaveLength(1);
    });

    it.each(faults)("is answered by the next upstream where one gives %s", async (_, fault) => {
      await using bad = await StandInCache.start({ directory: cache });
      await using good = await StandInCache.start({ directory: cache });
      bad.fail(() => true, fault);
      await using bridge = await startBridge(bad, good);
      await expectSubstituted(bridge.url);
    });

    it("of an unknown Compression is a 404: Nix 2.34 would abort", async () => {
      const objects = changedNarInfo(/^Compression: xz$/m, "Compression: lzip");
      await using upstream = await StandInCache.start({ directory: cache, objects });
      await using bridge = await startBridge(upstream);
      expect((await fetch(`${bridge.url}${narInfoPath}`)).status).toBe(404);
    });

    it.each([
      ["FileHash", /^FileHash: .*$/m, `FileHash: sha256:${"0".repeat(52)}`],
      ["FileSize", /^FileSize: .*$/m, "FileSize: 1"],
    ])("with a wrong %s is good: clients check only the NAR's own", async (_, pattern, line) => {
      const objects = changedNarInfo(pattern, line);
      await using upstream = await StandInCache.start({ directory: cache, objects });
      await using bridge = await startBridge(upstream);
      await expectSubstituted(bridge.url);
    });

    it("with a wrong NarHash is a 404: its signature does not hold", async () => {
      const objects = changedNarInfo(/^NarHash: .*$/m, `NarHash: sha256:${"0".repeat(52)}`);
      await using upstream = await StandInCache.start({ directory: cache, objects });
      await using bridge = await startBridge(upstream);
      expect((await fetch(`${bridge.url}${narInfoPath}`)).status).toBe(404);
    });

    it("without Compression means bzip2", async () => {
      const packed = await world.copyToCache([lib], "bzip2");
      const text = readFileSync(join(packed, narInfoPath), "utf8");
      const objects = { [narInfoPath]: text.replace("Compression: bzip2\n", "") };
      await using upstream = await StandInCache.start({ directory: packed, objects });
      await using bridge = await startBridge(upstream);
      await expectSubstituted(bridge.url);
    });

    it("never answers with Content-Encoding deflate, which aborts Nix 2.8", async () => {
      await using upstream = await StandInCache.start({ directory: cache });
      await using bridge = await startBridge(upstream);
      const accepted = ["deflate", "deflate, gzip, br, zstd", "zstd, br, gzip, deflate, bzip2, xz"];
      for (const encodings of accepted) {
        const headers = { "accept-encoding": encodings };
        expect(await encodingOf(`${bridge.url}${narInfoPath}`, headers)).not.toBe("deflate");
      }
    });
  });

  describe("a NAR", () => {
    it.each<CacheCompression>(["none", "gzip", "bzip2", "xz", "zstd", "br"])(
      "packed with %s arrives",
      async (compression) => {
        const packed = await world.copyToCache([lib], compression);
        await using upstream = await StandInCache.start({ directory: packed });
        await using bridge = await startBridge(upstream);
        await expectSubstituted(bridge.url);
      },
    );

    it("cut short is continued by Range, and nix sees one whole answer", async () => {
      await using upstream = await StandInCache.start({ directory: cache });
      upstream.fail("nar", { kind: "cut", afterBytes: 300_000 }, 2);
      await using bridge = await startBridge(upstream);
      await expectSubstituted(bridge.url);
      const ranges = upstream.seen("nar").map(({ headers }) => headers.range);
      expect(ranges[0]).toBeUndefined();
      expect(ranges.slice(1).every((range) => /^bytes=[1-9]\d*-/.test(String(range)))).toBe(true);
    });

    const faults: readonly (readonly [string, CacheFault])[] = [
      ["404", { kind: "status", status: 404 }],
      ["500", { kind: "status", status: 500 }],
      ["a login page", { kind: "html" }],
      ["a flipped bit", { kind: "flip", atByte: 400_000 }],
      ["a cut without ranges", { kind: "cut", afterBytes: 400_000 }],
      ["ranges that are wrong", { kind: "wrongRange", how: "shifted" }],
    ];
    it.each(faults)("is taken from the next upstream where one gives %s", async (_, fault) => {
      await using bad = await StandInCache.start({ directory: cache });
      await using good = await StandInCache.start({ directory: cache });
      bad.fail("nar", fault);
      await using bridge = await startBridge(bad, good);
      await expectSubstituted(bridge.url);
      expect(bad.seen("nar").length).toBeGreaterThan(0);
    });

    it("that only wrong bytes are left of is never answered whole, and heals", async () => {
      await using upstream = await StandInCache.start({ directory: cache });
      upstream.fail("nar", { kind: "flip", atByte: 400_000 });
      await using bridge = await startBridge(upstream);
      const text = await (await fetch(`${bridge.url}${narInfoPath}`)).text();
      const url = `${bridge.url}/${/^URL: (.*)$/m.exec(text)?.[1]}`;
      const whole = fetch(url).then(async (response) => {
        await response.arrayBuffer();
        return response.ok;
      });
      expect(await whole.catch(() => false)).toBe(false);
      await expect(world.substitute([lib], { urls: [bridge.url] })).rejects.toThrow();
      upstream.heal();
      await using again = await startBridge(upstream);
      await expectSubstituted(again.url);
    });

    it("says Accept-Ranges only once its bytes are proven, and then resumes", async () => {
      await using upstream = await StandInCache.start({ directory: cache });
      await using bridge = await startBridge(upstream);
      await expectSubstituted(bridge.url);
      const text = await (await fetch(`${bridge.url}${narInfoPath}`)).text();
      const url = `${bridge.url}/${/^URL: (.*)$/m.exec(text)?.[1]}`;
      const whole = await fetch(url);
      expect(whole.headers.get("accept-ranges")).toBe("bytes");
      expect(whole.headers.get("etag")).toBeTruthy();
      const bytes = Buffer.from(await whole.arrayBuffer());
      const part = await fetch(url, { headers: { range: "bytes=1000-" } });
      expect(part.status).toBe(206);
      expect(bytes.subarray(1000).equals(Buffer.from(await part.arrayBuffer()))).toBe(true);
    });
  });

  it("nix copy --from, nix store ls and nix store cat work", async () => {
    await using upstream = await StandInCache.start({ directory: cache });
    await using bridge = await startBridge(upstream);
    const target = world.createStore();
    const keys = ["--option", "trusted-public-keys", world.publicKey];
    await world.run("nix", ["copy", "--from", bridge.url, "--to", target.uri, ...keys, lib]);
    expect(await compareTrees(world.store.fileOf(lib), target.fileOf(lib))).toEqual([]);
    const list = await world.run("nix", ["store", "ls", "--store", bridge.url, `${lib}/include`]);
    expect(list.stdout.split("\n")).toContain("./foo.h");
    const header = `${lib}/include/foo.h`;
    const cat = await world.run("nix", ["store", "cat", "--store", bridge.url, header]);
    expect(cat.stdout).toBe("lib 1\n");
  });

  it("a push is refused, not swallowed", async () => {
    await using upstream = await StandInCache.start({ directory: cache });
    await using bridge = await startBridge(upstream);
    const other = await world.build("program");
    const args = ["copy", "--store", world.store.uri, "--to", bridge.url, other];
    expect((await world.attempt("nix", args)).code).not.toBe(0);
    const put = await fetch(`${bridge.url}/nix-cache-info`, { method: "PUT", body: "x" });
    expect(put.status).toBe(405);
    expect(upstream.requests.filter(({ method }) => method === "PUT")).toEqual([]);
  });

  it("a client that goes away ends the download it asked for", async () => {
    const files = readdirSync(join(cache, "nar"));
    expect(files).toHaveLength(1);
    await using upstream = await StandInCache.start({ directory: cache });
    upstream.fail("nar", { kind: "stall", afterBytes: 100_000 });
    await using bridge = await startBridge(upstream);
    const text = await (await fetch(`${bridge.url}${narInfoPath}`)).text();
    const url = `${bridge.url}/${/^URL: (.*)$/m.exec(text)?.[1]}`;
    const client = new AbortController();
    const answer = fetch(url, { signal: client.signal }).then((response) => response.arrayBuffer());
    await upstream.until((cache) => cache.seen("nar").some(({ bytes }) => bytes >= 100_000));
    client.abort();
    await expect(answer).rejects.toThrow();
    await upstream.until((cache) => cache.seen("nar").every(({ isAborted }) => isAborted));
  });
});

/** fetch() hides what it decoded. */
function encodingOf(url: string, headers: Record<string, string>): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(url, { headers }, (response) => {
      response.resume().on("end", () => resolve(response.headers["content-encoding"]));
    });
    request.on("error", reject).end();
  });
}
