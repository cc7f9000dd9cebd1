import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterEach, describe, expect, it } from "vitest";
import { ManualClock } from "../../../test/support/manual-clock.ts";
import { StandInCache, type StandInCacheOptions } from "../../../test/support/stand-in-cache.ts";
import { parseStoreHash } from "../src/nix/store-path.ts";
import { createHttpClient } from "../src/upstream/http-client.ts";
import { readBody } from "../src/upstream/http-response.ts";
import { CACHE_INFO_TTL_MS, createUpstream } from "../src/upstream/upstream.ts";

const storeHash = parseStoreHash("0123456789abcdfghijklmnpqrsvwxyz");
const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const resource of open.splice(0).reverse()) await resource[Symbol.asyncDispose]();
});

async function start(objects: NonNullable<StandInCacheOptions["objects"]>, suffix = "") {
  const cache = await StandInCache.start({ objects });
  const http = createHttpClient({ environment: {} });
  open.push(cache, http);
  const clock = new ManualClock();
  return { cache, clock, upstream: createUpstream({ http, clock, url: cache.origin + suffix }) };
}

async function bytesOf(body: AsyncIterable<Uint8Array>): Promise<string> {
  const pieces: Uint8Array[] = [];
  for await (const piece of body) pieces.push(piece);
  return Buffer.concat(pieces).toString();
}

describe("nix-cache-info", () => {
  const text =
    "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 41\nUpgrade: castore/1 castore/\n";

  it("is read once for all who ask, and again when it is old", async () => {
    const { cache, clock, upstream } = await start({ "/nix-cache-info": text });
    const [info] = await Promise.all([upstream.cacheInfo(), upstream.cacheInfo()]);
    expect(info).toEqual({
      ...{ storeDir: "/nix/store", wantMassQuery: true, priority: 41 },
      upgrades: [{ protocol: "castore/1", url: "castore/" }],
    });
    clock.advance(CACHE_INFO_TTL_MS - 1);
    await upstream.cacheInfo();
    expect(cache.requests.length).toBe(1);
    clock.advance(1);
    await upstream.cacheInfo();
    expect(cache.requests.length).toBe(2);
  });

  it("an upgrade may be offered in a header", async () => {
    const headers = { "castore-upgrade": "castore/1 https://other.example/castore/" };
    const { upstream } = await start({ "/nix-cache-info": { body: text, headers } });
    expect((await upstream.cacheInfo()).upgrades.map(({ url }) => url)).toEqual([
      "castore/",
      "https://other.example/castore/",
    ]);
  });

  it("that is missing means the defaults; one that cannot be read is tried again", async () => {
    const { cache, upstream } = await start({});
    cache.fail("nix-cache-info", { kind: "status", status: 500 }, 1);
    await expect(upstream.cacheInfo()).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect(await upstream.cacheInfo()).toEqual({ wantMassQuery: false, upgrades: [] });
  });

  it("of any size takes no more memory than its limit", async () => {
    const { upstream } = await start({ "/nix-cache-info": Buffer.alloc(1 << 20, "a") });
    await expect(upstream.cacheInfo()).rejects.toMatchObject({ code: "EXHAUSTED" });
  });
});

describe("an upstream", () => {
  it("has a URL with a prefix, and a priority of the user's", async () => {
    const { upstream } = await start({ "/sub/log/x": "log" }, "/sub?priority=7&trusted=1");
    expect([upstream.url.pathname, upstream.url.search, upstream.priority]).toEqual([
      ...["/sub/", "", 7],
    ]);
    const answer = await upstream.get("log/x");
    expect(answer && Buffer.from(await readBody(answer, 10)).toString()).toBe("log");
    expect(await upstream.get("log/y")).toBeUndefined();
  });

  it("gives objects whose names hold colons and exclamation marks", async () => {
    const path = "realisations/sha256:abc!out.doi";
    const { upstream } = await start({ [`/${path}`]: "{}", "/sha256:x": "{}" });
    for (const name of [path, "sha256:x"]) {
      const answer = await upstream.get(name, { method: "HEAD" });
      answer?.discard();
      expect(answer?.headers["content-length"]).toBe("2");
    }
  });

  it("is not asked for what lies outside of it", async () => {
    const { cache, upstream } = await start({ "/secret": "secret" }, "/sub");
    for (const path of ["../secret", "log/%2e%2e/../secret", "/../../secret"]) {
      const answer = upstream.get(path).then((found) => found?.status);
      await expect(answer.catch((error) => error.code)).resolves.not.toBe(200);
    }
    expect(cache.seen("/secret")).toEqual([]);
  });

  it.each([
    [404, undefined],
    [403, "DENIED"],
    [401, "DENIED"],
    [500, "UNAVAILABLE"],
    [429, "UNAVAILABLE"],
  ])("that answers %i to a narinfo: %s", async (status, code) => {
    const { cache, upstream } = await start({});
    cache.fail("narinfo", { kind: "status", status });
    const outcome = upstream.narInfoText(storeHash).catch(({ code }) => code);
    expect(await outcome).toBe(code);
  });

  it("opens the NAR that its narinfo names, wherever that is admitted to be", async () => {
    const elsewhere = await start({ "/1.nar": "elsewhere" });
    const { upstream } = await start({ "/nar/1.nar": "here" });
    expect(await bytesOf(upstream.openNar({ url: "nar/1.nar" }))).toBe("here");
    expect(await bytesOf(upstream.openNar({ url: "nar/1.nar" }, { from: 2 }))).toBe("re");
    const url = `${elsewhere.cache.origin}/1.nar`;
    expect(await bytesOf(upstream.openNar({ url }))).toBe("elsewhere");
    const denied = bytesOf(upstream.openNar({ url: "file:///etc/passwd" }));
    await expect(denied).rejects.toMatchObject({ code: "DENIED" });
  });

  it("may be a directory", async () => {
    const directory = await mkdtemp(join(tmpdir(), "castore-upstream-"));
    open.push({ [Symbol.asyncDispose]: () => rm(directory, { recursive: true }) });
    await mkdir(join(directory, "nar"));
    await writeFile(join(directory, "nix-cache-info"), "StoreDir: /nix/store\nPriority: 3\n");
    await writeFile(join(directory, `${storeHash}.narinfo`), "text");
    await writeFile(join(directory, "nar/1.nar"), "nar");
    const http = createHttpClient({ environment: {} });
    open.push(http);
    const upstream = createUpstream({ http, url: pathToFileURL(directory).href });
    expect((await upstream.cacheInfo()).priority).toBe(3);
    expect(await upstream.narInfoText(storeHash)).toBe("text");
    expect(await bytesOf(upstream.openNar({ url: "nar/1.nar" }, { from: 1 }))).toBe("ar");
    await expect(upstream.get("nar%2f1.nar")).rejects.toMatchObject({ code: "DENIED" });
    await expect(bytesOf(upstream.openNar({ url: "nar/2.nar" }))).rejects.toMatchObject({
      code: "INCOMPLETE",
    });
  });
});
