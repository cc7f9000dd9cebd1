import { mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { zstdCompress } from "@castore/castore";
import { afterEach, describe, expect, it } from "vitest";
import { StandInCache, type StandInCacheOptions } from "../../../test/support/stand-in-cache.ts";
import { parseCacheUrl } from "../src/upstream/admission.ts";
import {
  createHttpClient,
  type HttpClient,
  type HttpClientOptions,
} from "../src/upstream/http-client.ts";
import { readBody } from "../src/upstream/http-response.ts";

const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const resource of open.splice(0).reverse()) await resource[Symbol.asyncDispose]();
});

async function startCache(options?: StandInCacheOptions): Promise<StandInCache> {
  const cache = await StandInCache.start(options);
  open.push(cache);
  return cache;
}

function makeClient(options: HttpClientOptions = {}): HttpClient {
  const client = createHttpClient({ environment: {}, ...options });
  open.push(client);
  return client;
}

function getter(client: HttpClient, origin: string, options = {}) {
  const policy = { base: parseCacheUrl(origin) };
  return (path: string) => client.request(new URL(path, policy.base), { policy, ...options });
}

const text = async (answer: Promise<Awaited<ReturnType<HttpClient["request"]>>>) =>
  Buffer.from(await readBody(await answer, 1 << 20)).toString();

describe("requests", () => {
  it("an answer comes with its status, headers and body, whatever the status", async () => {
    const cache = await startCache({ objects: { "/a": { body: "hi", headers: { "x-y": "z" } } } });
    const get = getter(makeClient(), cache.origin);
    const found = await get("a");
    expect([found.status, found.headers["x-y"], found.url.pathname]).toEqual([200, "z", "/a"]);
    expect(Buffer.from(await readBody(found, 2)).toString()).toBe("hi");
    const missing = await get("b");
    missing.discard();
    expect(missing.status).toBe(404);
  });

  it("connections are kept and used again", async () => {
    const cache = await startCache({ objects: { "/a": "hi" } });
    const get = getter(makeClient(), cache.origin);
    for (let i = 0; i < 5; i++) expect(await text(get("a"))).toBe("hi");
    expect(cache.connectionsMade).toBe(1);
  });

  it("a kept connection that broke does not fail the next request", async () => {
    const cache = await startCache({ objects: { "/a": "hi" } });
    const requests: string[] = [];
    const hooks = { onRequest: (url: URL) => void requests.push(url.pathname) };
    const get = getter(makeClient({ hooks }), cache.origin);
    await text(get("a"));
    cache.fail("/a", { kind: "reset" }, 1);
    expect(await text(get("a"))).toBe("hi");
    expect(requests).toEqual(["/a", "/a", "/a"]);
  });

  it("gzip, br and zstd are decoded, with the bytes on the wire counted", async () => {
    const long = "castore ".repeat(10_000);
    const gzip = { body: gzipSync(long), headers: { "content-encoding": "gzip" } };
    const br = { body: brotliCompressSync(long), headers: { "content-encoding": "br" } };
    const headers = { "content-encoding": "zstd" };
    const zstd = { body: zstdCompress(Buffer.from(long)), headers };
    const cache = await startCache({ objects: { "/gzip": gzip, "/br": br, "/zstd": zstd } });
    let bytes = 0;
    const onBytes = (_url: URL, count: number) => {
      bytes += count;
    };
    const get = getter(makeClient({ hooks: { onBytes } }), cache.origin);
    expect(await text(get("gzip"))).toBe(long);
    expect(await text(get("br"))).toBe(long);
    expect(await text(get("zstd"))).toBe(long);
    expect(cache.requests[0]?.headers["accept-encoding"]).toContain("gzip, br");
    expect(bytes).toBe(gzip.body.length + br.body.length + zstd.body.length);
  });

  it("a compressed body that is cut or wrong is CORRUPT or UNAVAILABLE, never short", async () => {
    const body = gzipSync("castore ".repeat(10_000));
    const headers = { "content-encoding": "gzip" };
    const cache = await startCache({
      objects: {
        "/short": { body: body.subarray(0, 50), headers },
        "/cut": { body, headers },
        "/odd": { body: "x", headers: { "content-encoding": "compress" } },
      },
    });
    cache.fail("/cut", { kind: "cut", afterBytes: 50 });
    const get = getter(makeClient(), cache.origin);
    await expect(text(get("short"))).rejects.toMatchObject({ code: "CORRUPT" });
    await expect(text(get("cut"))).rejects.toMatchObject({ code: "UNAVAILABLE" });
    await expect(text(get("odd"))).rejects.toMatchObject({ code: "UNSUPPORTED" });
  });

  it("readBody() stops at its limit", async () => {
    const cache = await startCache({ objects: { "/a": Buffer.alloc(100_000) } });
    const get = getter(makeClient(), cache.origin);
    await expect(readBody(await get("a"), 99_999)).rejects.toMatchObject({ code: "EXHAUSTED" });
    expect((await readBody(await get("a"), 100_000)).length).toBe(100_000);
  });

  it("a POST sends its body and is neither repeated nor redirected", async () => {
    const cache = await startCache({
      objects: {
        "/echo": async (request, response) => {
          request.pipe(response);
          return undefined;
        },
      },
    });
    const client = makeClient();
    const policy = { base: parseCacheUrl(cache.origin) };
    const post = (path: string) =>
      client.request(new URL(path, policy.base), {
        policy,
        method: "POST",
        body: Buffer.from("ask"),
      });
    expect(await text(post("echo"))).toBe("ask");
    cache.fail("/echo", { kind: "redirect", to: "/echo" }, 1);
    const redirect = await post("echo");
    redirect.discard();
    expect(redirect.status).toBe(302);
    cache.fail("/echo", { kind: "reset" }, 1);
    await expect(post("echo")).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect(cache.requests.length).toBe(3);
  });

  it("a client that is closed ends its requests and takes no more", async () => {
    const cache = await startCache();
    cache.fail("/a", { kind: "hang" });
    const client = makeClient();
    const get = getter(client, cache.origin);
    const waiting = get("a");
    await cache.until(({ requests }) => requests.length === 1);
    await client.close();
    await expect(waiting).rejects.toMatchObject({ code: "CLOSED" });
    await expect(get("a")).rejects.toMatchObject({ code: "CLOSED" });
    await cache.until(({ connections }) => connections === 0);
  });
});

describe("time-outs and cancellation", () => {
  it("no answer, a stalled body, no connection: UNAVAILABLE that names the request", async () => {
    const cache = await startCache({ objects: { "/stall": Buffer.alloc(100) } });
    cache.fail("/hang", { kind: "hang" });
    cache.fail("/stall", { kind: "stall", afterBytes: 10 });
    const get = getter(makeClient({ headersTimeoutMs: 40, stallTimeoutMs: 40 }), cache.origin);
    await expect(get("hang")).rejects.toThrow(/^GET http:.*\/hang: no answer in time$/);
    await expect(text(get("stall"))).rejects.toThrow(/\/stall: the body stalled$/);
    await cache.close();
    await expect(get("gone")).rejects.toMatchObject({
      code: "UNAVAILABLE",
      message: expect.stringContaining("connection refused"),
    });
  });

  // Here time itself is the input: the client looks at its limits about once a second.
  it("a body that waits for its reader does not stall", async () => {
    const cache = await startCache({ objects: { "/a": Buffer.alloc(8 << 20, 1) } });
    const answer = await getter(makeClient({ stallTimeoutMs: 30 }), cache.origin)("a");
    let size = 0;
    for await (const piece of answer.body) {
      if (size === 0) await new Promise((resolve) => setTimeout(resolve, 1200));
      size += piece.length;
    }
    expect(size).toBe(8 << 20);
  });

  it("a slow reader slows the server down", async () => {
    const size = 64 << 20;
    const cache = await startCache({ objects: { "/a": Buffer.alloc(size) } });
    const answer = await getter(makeClient(), cache.origin)("a");
    const pieces = answer.body[Symbol.asyncIterator]();
    await pieces.next();
    await cache.until(({ requests }) => (requests[0]?.bytes ?? 0) > 0);
    await new Promise((resolve) => setImmediate(resolve));
    expect(cache.requests[0]?.bytes).toBeLessThan(size / 2);
    await pieces.return?.();
    await cache.until(({ connections }) => connections === 0);
  });

  it.each(["before the answer", "in the body"])("aborting %s closes the socket", async (when) => {
    const cache = await startCache({ objects: { "/a": Buffer.alloc(100) } });
    cache.fail("/a", when === "in the body" ? { kind: "stall", afterBytes: 9 } : { kind: "hang" });
    const controller = new AbortController();
    const reason = new Error("gone");
    const get = getter(makeClient(), cache.origin, { signal: controller.signal });
    const waiting = text(get("a"));
    await cache.until(({ requests }) => requests.length === 1);
    controller.abort(reason);
    await expect(waiting).rejects.toBe(reason);
    await cache.until(({ connections }) => connections === 0);
  });

  it("discard() of a large body closes the socket, of a small one keeps it", async () => {
    const objects = { "/small": Buffer.alloc(100), "/large": Buffer.alloc(32 << 20) };
    const cache = await startCache({ objects });
    const get = getter(makeClient(), cache.origin);
    for (let i = 0; i < 5; i++) (await get("small")).discard();
    expect(await text(get("small"))).toHaveLength(100);
    expect(cache.connectionsMade).toBeLessThan(3);
    (await get("large")).discard();
    await cache.until(() => cache.seen("/large")[0]?.isAborted === true);
  });
});

describe("limits per host", () => {
  it("transfers leave room for lookups, and the queue is bounded", async () => {
    const cache = await startCache({ objects: { "/a": "hi" } });
    cache.fail(/^\/nar/, { kind: "hang" });
    const client = makeClient({
      ...{ requestsPerHostMax: 3, transfersPerHostMax: 2, requestsQueuedMax: 1 },
    });
    const policy = { base: parseCacheUrl(cache.origin) };
    const controller = new AbortController();
    const transfer = (path: string) =>
      client.request(new URL(path, policy.base), {
        ...{ policy, lane: "transfer", signal: controller.signal },
      });
    const transfers = [transfer("nar/1"), transfer("nar/2"), transfer("nar/3")];
    const settled = Promise.allSettled(transfers);
    await cache.until(({ requests }) => requests.length === 2);
    await expect(transfer("nar/4")).rejects.toMatchObject({ code: "EXHAUSTED" });
    expect(await text(getter(client, cache.origin)("a"))).toBe("hi");
    controller.abort(new Error("gone"));
    expect((await settled).map(({ status }) => status)).toEqual(Array(3).fill("rejected"));
    expect(cache.seen("nar").length).toBe(2);
    cache.heal();
    expect(await text(getter(client, cache.origin)("a"))).toBe("hi");
  });
});

describe("redirects and credentials", () => {
  const credentialsFor = () => ({ user: "ann", password: "s:cret" });

  it("credentials go to the cache's own origin and to no other", async () => {
    const basicAuth = { user: "ann", password: "s:cret" };
    const elsewhere = await startCache({ objects: { "/nar/1": "nar" } });
    const cache = await startCache({ objects: { "/a": "hi" }, basicAuth });
    const get = getter(makeClient({ credentialsFor }), cache.origin);
    expect(await text(get("a"))).toBe("hi");
    cache.fail("/b", { kind: "redirect", to: `${elsewhere.origin}/nar/1` });
    expect(await text(get("b"))).toBe("nar");
    expect(elsewhere.requests[0]?.headers.authorization).toBeUndefined();
    // Back at home after a detour: the path was not the user's choice.
    elsewhere.fail("/nar/1", { kind: "redirect", to: `${cache.origin}/a` });
    const back = await get("b");
    back.discard();
    expect(back.status).toBe(401);
  });

  it("five redirects are followed, not six, and only to http and https", async () => {
    const cache = await startCache({ objects: { "/0": "end" } });
    for (let i = 1; i <= 6; i++) cache.fail(`/${i}`, { kind: "redirect", to: `${i - 1}` });
    cache.fail("/file", { kind: "redirect", to: "file:///etc/passwd" });
    cache.fail("/user", { kind: "redirect", to: "http://ann@localhost/" });
    const get = getter(makeClient(), cache.origin);
    expect(await text(get("5"))).toBe("end");
    await expect(get("6")).rejects.toMatchObject({ code: "UNAVAILABLE" });
    await expect(get("file")).rejects.toMatchObject({ code: "DENIED" });
    await expect(get("user")).rejects.toMatchObject({ code: "DENIED" });
  });
});

describe("file URLs", () => {
  async function makeDirectory(): Promise<string> {
    const directory = await mkdtemp(join(tmpdir(), "castore-file-"));
    open.push({ [Symbol.asyncDispose]: () => rm(directory, { recursive: true }) });
    return directory;
  }

  it("are answered as a static server answers, with ranges", async () => {
    const directory = await makeDirectory();
    await writeFile(join(directory, "a.nar"), "0123456789");
    const policy = { base: parseCacheUrl(pathToFileURL(directory).href) };
    const client = makeClient();
    const get = (path: string, headers = {}) =>
      client.request(new URL(path, policy.base), { policy, headers });
    const whole = await get("a.nar");
    expect(whole.headers["content-length"]).toBe("10");
    expect(Buffer.from(await readBody(whole, 10)).toString()).toBe("0123456789");
    const range = { range: "bytes=7-", "if-range": whole.headers.etag };
    const part = await get("a.nar", range);
    expect([part.status, part.headers["content-range"]]).toEqual([206, "bytes 7-9/10"]);
    expect(Buffer.from(await readBody(part, 10)).toString()).toBe("789");
    await writeFile(join(directory, "a.nar"), "longer than before");
    expect((await get("a.nar", range)).status).toBe(200);
    expect((await get("a.nar", { range: "bytes=18-" })).status).toBe(416);
    expect((await get("missing")).status).toBe(404);
    expect((await get("a.nar/below")).status).toBe(404);
    expect((await get("")).status).toBe(404);
  });

  it("never leave their directory, by no symlink either", async () => {
    const directory = await makeDirectory();
    const outside = await makeDirectory();
    await writeFile(join(outside, "secret"), "secret");
    await writeFile(join(directory, "a"), "a");
    await symlink(join(outside, "secret"), join(directory, "link"));
    await symlink(outside, join(directory, "folder"));
    await symlink("a", join(directory, "inside"));
    const get = getter(makeClient(), pathToFileURL(directory).href);
    await expect(get("link")).rejects.toMatchObject({ code: "DENIED" });
    await expect(get("folder/secret")).rejects.toMatchObject({ code: "DENIED" });
    await expect(get("../")).rejects.toMatchObject({ code: "DENIED" });
    expect(await text(get("inside"))).toBe("a");
  });
});
