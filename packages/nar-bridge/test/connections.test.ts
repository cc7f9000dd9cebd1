import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import type { LookupFunction } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { StandInCache, type StandInCacheOptions } from "../../../test/support/stand-in-cache.ts";
import { startStandInProxy } from "../../../test/support/stand-in-proxy.ts";
import { createThrowAwayCertificate } from "../../../test/support/throw-away-certificate.ts";
import { netrcEntryFor, parseNetrc } from "../src/nix/netrc.ts";
import { parseCacheUrl } from "../src/upstream/admission.ts";
import { createHttpClient, type HttpClientOptions } from "../src/upstream/http-client.ts";
import { readBody } from "../src/upstream/http-response.ts";
import { proxyChoiceFrom } from "../src/upstream/proxy-settings.ts";

const directory = mkdtempSync(join(tmpdir(), "castore-connections-"));
afterAll(() => rmSync(directory, { recursive: true }));
const tls = createThrowAwayCertificate();
const bundle = join(directory, "bundle.pem");
writeFileSync(bundle, `a comment\n${tls.cert}`);

const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const resource of open.splice(0).reverse()) await resource[Symbol.asyncDispose]();
});

async function startCache(options?: StandInCacheOptions): Promise<StandInCache> {
  const cache = await StandInCache.start({ objects: { "/a": "hi" }, ...options });
  open.push(cache);
  return cache;
}

async function startProxy(options?: Parameters<typeof startStandInProxy>[0]) {
  const proxy = await startStandInProxy(options);
  open.push(proxy);
  return proxy;
}

/** The text of `path` at the cache `origin`. */
async function get(origin: string, path: string, options: HttpClientOptions = {}): Promise<string> {
  await using client = createHttpClient({ environment: {}, ...options });
  const base = parseCacheUrl(origin);
  const response = await client.request(new URL(path, base), { policy: { base } });
  return `${response.status} ${Buffer.from(await readBody(response, 1000)).toString()}`;
}

/** Every name leads to loopback. */
const lookupLoopback: LookupFunction = (_name, options, callback) =>
  options.all
    ? callback(null, [{ address: "127.0.0.1", family: 4 }])
    : callback(null, "127.0.0.1", 4);

describe("TLS", () => {
  it.each(["NIX_SSL_CERT_FILE", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"])(
    "the certificates of %s are trusted, and an unknown one is not",
    async (variable) => {
      const cache = await startCache({ tls });
      expect(await get(cache.origin, "a", { environment: { [variable]: bundle } })).toBe("200 hi");
      await expect(get(cache.origin, "a")).rejects.toMatchObject({
        code: "UNAVAILABLE",
        message: expect.stringContaining("self-signed certificate"),
      });
    },
  );

  it("a certificate for another name is refused", async () => {
    const cache = await startCache({ tls });
    const other = cache.origin.replace("127.0.0.1", "other.example");
    const options = { environment: { NIX_SSL_CERT_FILE: bundle }, lookup: lookupLoopback };
    await expect(get(other, "a", options)).rejects.toMatchObject({ code: "UNAVAILABLE" });
    const named = cache.origin.replace("127.0.0.1", "cache.stand-in.test");
    expect(await get(named, "a", options)).toBe("200 hi");
  });

  it("a certificate file that is missing or empty is INVALID, and named", async () => {
    const cache = await startCache({ tls });
    const empty = join(directory, "empty.pem");
    writeFileSync(empty, "");
    for (const path of [join(directory, "missing.pem"), empty]) {
      await expect(
        get(cache.origin, "a", { environment: { NIX_SSL_CERT_FILE: path } }),
      ).rejects.toMatchObject({ code: "INVALID", message: expect.stringContaining(path) });
    }
  });
});

describe("proxies", () => {
  it("https goes through a tunnel, with the password for the proxy", async () => {
    const cache = await startCache({ tls });
    const authorization = `Basic ${Buffer.from("ann:p@ss").toString("base64")}`;
    const proxy = await startProxy({ authorization });
    const https_proxy = proxy.url.replace("://", "://ann:p%40ss@");
    const environment = { https_proxy, NIX_SSL_CERT_FILE: bundle };
    expect(await get(cache.origin, "a", { environment })).toBe("200 hi");
    expect(proxy.requests).toEqual([`CONNECT ${new URL(cache.origin).host}`]);
    await expect(
      get(cache.origin, "a", { environment: { ...environment, https_proxy: proxy.url } }),
    ).rejects.toMatchObject({ code: "UNAVAILABLE", message: expect.stringMatching(/407/) });
  });

  it("http is asked of the proxy itself, and names are the proxy's to look up", async () => {
    const cache = await startCache();
    const proxy = await startProxy({ to: { port: Number(new URL(cache.origin).port) } });
    const environment = { HTTP_PROXY: proxy.url };
    expect(await get("http://cache.example/sub", "../a", { environment })).toBe("200 hi");
    expect(proxy.requests).toEqual(["GET http://cache.example/a"]);
    expect(cache.requests[0]?.headers.host).toBe("cache.example");
    expect(cache.requests[0]?.headers["proxy-authorization"]).toBeUndefined();
  });

  it("a proxy that is down or refuses is UNAVAILABLE", async () => {
    const cache = await startCache({ tls });
    const environment = { https_proxy: "http://127.0.0.1:1", NIX_SSL_CERT_FILE: bundle };
    await expect(get(cache.origin, "a", { environment })).rejects.toMatchObject({
      code: "UNAVAILABLE",
      message: expect.stringMatching(/proxy 127\.0\.0\.1:1: CONNECT .*ECONNREFUSED/),
    });
  });

  it.each([
    ["http://cache.example/", "", "http://lower.example"],
    ["https://cache.example/", "", "http://all.example"],
    ["http://cache.example/", "*", undefined],
    ["http://cache.example/", "other.example, cache.example", undefined],
    ["http://cache.example/", ".example", undefined],
    ["http://cache.example/", "*.example", undefined],
    ["http://cache.example/", "ache.example", "http://lower.example"],
    ["http://cache.example/", "cache.example:80", undefined],
    ["http://cache.example/", "cache.example:81", "http://lower.example"],
    ["http://10.1.2.3/", "10.0.0.0/8", undefined],
    ["http://11.1.2.3/", "10.0.0.0/8", "http://lower.example"],
    ["http://[fd00::1]/", "fd00::/8", undefined],
    ["http://[::1]/", "::1", undefined],
    ["file:///srv/", "", undefined],
  ])("for %s with no_proxy=%s: %s", (url, no_proxy, expected) => {
    const choice = proxyChoiceFrom({
      http_proxy: "lower.example",
      HTTP_PROXY: "http://upper.example",
      ALL_PROXY: "http://all.example",
      no_proxy,
    });
    expect(choice(new URL(url))?.origin).toBe(expected);
  });

  it("a proxy that is no http URL is INVALID, and its password not told", () => {
    const choose = () => proxyChoiceFrom({ all_proxy: "socks5://ann:secret@proxy.example" });
    expect(choose).toThrow(expect.objectContaining({ code: "INVALID" }));
    expect(choose).not.toThrow(/secret/);
  });
});

describe("credentials", () => {
  it("netrc's user and password are sent to the host they are for", async () => {
    const basicAuth = { user: "ann", password: "s3 cret" };
    const cache = await startCache({ basicAuth });
    const netrc = parseNetrc('machine 127.0.0.1 login ann password "s3 cret"');
    const credentialsFor = ({ hostname }: URL) => {
      const entry = netrcEntryFor(netrc, hostname);
      return entry && { user: entry.login, password: entry.password };
    };
    expect(await get(cache.origin, "a", { credentialsFor })).toBe("200 hi");
    expect(await get(cache.origin, "a")).toBe("401 ");
  });
});

describe("the connected address", () => {
  /** A proxy makes a cache public: nothing shows that it is on loopback. */
  async function startPublicCache(to: string) {
    const cache = await startCache();
    cache.fail("/away", { kind: "redirect", to });
    const proxy = await startProxy({ to: { port: Number(new URL(cache.origin).port) } });
    return { http_proxy: proxy.url, no_proxy: "127.0.0.1,inside.example,localhost,::1" };
  }

  it.each(["127.0.0.1", "inside.example", "localhost", "[::1]"])(
    "a public cache cannot lead to %s on this machine",
    async (host) => {
      const inside = await startCache();
      const { port } = new URL(inside.origin);
      const environment = await startPublicCache(`http://${host}:${port}/a`);
      const options = { environment, lookup: lookupLoopback };
      await expect(get("http://cache.example", "away", options)).rejects.toMatchObject({
        code: "DENIED",
      });
      expect(inside.connectionsMade).toBe(0);
    },
  );

  it("a cache on a private address cannot lead to loopback either", async () => {
    const inside = await startCache();
    const environment = await startPublicCache(`${inside.origin}/a`);
    const asked = get("http://10.0.0.1", "away", { environment });
    await expect(asked).rejects.toMatchObject({ code: "DENIED" });
    expect(inside.connectionsMade).toBe(0);
  });

  it("a cache on loopback may lead to another one there", async () => {
    const inside = await startCache();
    const cache = await startCache();
    cache.fail("/away", { kind: "redirect", to: `${inside.origin}/a` });
    expect(await get(cache.origin, "away")).toBe("200 hi");
  });
});
