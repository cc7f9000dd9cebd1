import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { request } from "node:http";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterEach, expect, test } from "vitest";
import { parseNarInfo } from "../src/nix/nar-info-text.ts";
import { nixHashOf } from "../src/nix/nix-hash.ts";
import { storePathHash } from "../src/nix/store-path.ts";
import { TrustedKeys } from "../src/nix/trusted-keys.ts";
import { directory, file } from "./nar-fixture.ts";
import { makePath, narInfoPath, pathOfCa, SECRET_KEY, storePathNamed } from "./path-fixture.ts";
import { raw } from "./raw-client.ts";
import {
  putNar,
  putNarInfo,
  type Serve,
  type ServeOptions,
  startServe,
  upload,
} from "./serve-fixture.ts";

const opened: AsyncDisposable[] = [];
afterEach(async () => {
  for (const resource of opened.splice(0).reverse()) await resource[Symbol.asyncDispose]();
});

async function start(options: ServeOptions = {}): Promise<Serve> {
  const serve = await startServe(options);
  opened.push(serve);
  return serve;
}

const TREE = directory({ bin: file("tool".repeat(50_000), true), note: file("note") });

async function narOf(serve: Serve, narInfo: string): Promise<Buffer> {
  return (await raw(`${serve.url}/${parseNarInfo(narInfo).url}`)).body;
}

test.each(["none", "xz", "zstd"] as const)(
  "a path uploaded as %s is served",
  async (compression) => {
    const path = await makePath(`up-${compression}`, TREE, { compression, references: ["self"] });
    const serve = await start();
    expect((await raw(serve.url + narInfoPath(path))).status).toBe(404);
    expect((await putNar(serve, path)).status).toBe(200);
    expect((await raw(serve.url + narInfoPath(path))).status).toBe(404);
    const put = await putNarInfo(serve, path);
    expect([put.status, put.body.byteLength]).toEqual([200, 0]);
    const answer = await raw(serve.url + narInfoPath(path));
    expect(answer.headers["content-type"]).toBe("text/x-nix-narinfo");
    const narInfo = parseNarInfo(answer.body.toString());
    const { storePath, narHash, narSize, references, signatures } = path.narInfo;
    expect(narInfo).toMatchObject({ storePath, narHash, narSize, references, signatures });
    expect(narInfo.compression).toBe("none");
    expect((await narOf(serve, answer.body.toString())).equals(path.nar)).toBe(true);
  },
);

test("the HEAD that goes before a PUT finds a NAR that was uploaded, and no other", async () => {
  const path = await makePath("head-first", TREE, { compression: "xz" });
  const serve = await start();
  const url = `${serve.url}/${path.narInfo.url}`;
  expect((await raw(url, { method: "HEAD" })).status).toBe(404);
  await putNar(serve, path);
  expect((await raw(url, { method: "HEAD" })).status).toBe(200);
});

test("an unsigned path is signed with our key", async () => {
  const path = await makePath("unsigned", TREE, { keys: [] });
  const serve = await start({ signingKeys: [SECRET_KEY] });
  await upload(serve, path);
  const answer = await raw(serve.url + narInfoPath(path));
  const keys = TrustedKeys.parse([SECRET_KEY.publicKey.text]);
  expect(keys.verify(parseNarInfo(answer.body.toString()))).toBe(SECRET_KEY.name);
});

test("without a key an unsigned path is refused in one line that says what to do", async () => {
  const path = await makePath("unsigned", TREE, { keys: [] });
  const serve = await start();
  await putNar(serve, path);
  const { status, body } = await putNarInfo(serve, path);
  expect(status).toBe(403);
  expect(body.toString()).toMatch(/^403: \S+-unsigned: has no signature; .*--signing-key\n$/);
  expect((await raw(serve.url + narInfoPath(path))).status).toBe(404);
});

test("a NAR other than its narinfo says is refused, and names what it has", async () => {
  const path = await makePath("wrong-hash", TREE);
  const serve = await start();
  await putNar(serve, path);
  const other = await makePath("wrong-hash", file("other"), { change: { url: path.narInfo.url } });
  const { status, body } = await putNarInfo(serve, other);
  expect(status).toBe(400);
  expect(body.toString()).toContain(path.narInfo.narHash);
  expect(body.toString().trimEnd()).not.toContain("\n");
  const size = await makePath("wrong-hash", TREE, { change: { narSize: 104 } });
  expect((await putNarInfo(serve, size)).body.toString()).toContain("not 104 bytes");
  expect(await serve.pathInfos.get(storePathHash(path.narInfo.storePath))).toBeUndefined();
});

test("a narinfo whose NAR never came is refused", async () => {
  const path = await makePath("no-nar", TREE);
  const { status, body } = await putNarInfo(await start(), path);
  expect(status).toBe(400);
  expect(body.toString()).toMatch(/its NAR nar\/\S+ was not uploaded\n$/);
});

test("a path that refers to what is not here is refused, naming it, until it is here", async () => {
  const leaf = await makePath("leaf", file("leaf"));
  const { storePath } = leaf.narInfo;
  const top = await makePath("top", file("top"), { references: [storePath] });
  const serve = await start();
  await putNar(serve, top);
  const { status, body } = await putNarInfo(serve, top);
  expect(status).toBe(400);
  expect(body.toString()).toContain(`refers to ${storePath}, not here`);
  await upload(serve, leaf);
  expect((await putNarInfo(serve, top)).status).toBe(200);
});

test("a narinfo under another path's name is refused", async () => {
  const path = await makePath("misnamed", TREE);
  const serve = await start();
  await putNar(serve, path);
  const url = `${serve.url}/${storePathHash(storePathNamed("another"))}.narinfo`;
  const { status } = await raw(url, { method: "PUT", body: Buffer.from(path.text) });
  expect(status).toBe(400);
});

test("bytes that are no NAR, or not compressed as named, are refused", async () => {
  const serve = await start();
  for (const name of ["a.nar", "a.nar.xz", "a.nar.zst", "a.nar.lz4", "garbage"]) {
    const body = Buffer.alloc(3_000_000, "no NAR");
    const answer = await raw(`${serve.url}/nar/${name}`, { method: "PUT", body });
    expect([name, answer.status]).toEqual([name, 400]);
    expect(answer.body.toString()).toMatch(/^400: .+\n$/);
  }
});

test("a CA path needs no signature, but its contents must be those of its CA", async () => {
  const contents = Buffer.from("fixed contents");
  const hash = nixHashOf("sha256", createHash("sha256").update(contents).digest());
  const ca = { method: "flat", hash } as const;
  const change = { ca, storePath: pathOfCa("fixed", ca) };
  const serve = await start();
  await upload(serve, await makePath("fixed", file(contents), { keys: [], change }));
  const evil = await makePath("fixed", file("evil contents"), { keys: [], change });
  await putNar(serve, evil);
  const { status, body } = await putNarInfo(serve, evil);
  expect(status).toBe(400);
  expect(body.toString()).toContain("its contents are not those of its CA");
});

test("a narinfo and a listing may come with a Content-Encoding", async () => {
  const path = await makePath("encoded", TREE);
  const serve = await start();
  await putNar(serve, path);
  const headers = { "content-encoding": "gzip" };
  const put = (url: string, text: string) =>
    raw(serve.url + url, { method: "PUT", headers, body: gzipSync(text) });
  expect((await put(narInfoPath(path), path.text)).status).toBe(200);
  expect((await raw(serve.url + narInfoPath(path))).status).toBe(200);
  expect((await put(narInfoPath(path).replace("narinfo", "ls"), "{}")).status).toBe(200);
});

test("logs, realisations and the like are kept and given out as they came", async () => {
  const serve = await start();
  const log = gzipSync("the log\n".repeat(1000));
  const encoded = { "content-encoding": "gzip" };
  const url = `${serve.url}/log/${storePathNamed("a.drv")}`;
  expect((await raw(url, { method: "PUT", headers: encoded, body: log })).status).toBe(200);
  const answer = await raw(url);
  expect(answer.headers["content-encoding"]).toBe("gzip");
  expect(answer.body.equals(log)).toBe(true);
  const head = await raw(url, { method: "HEAD" });
  expect(head.headers["content-length"]).toBe(String(log.byteLength));
  for (const path of ["/realisations/sha256:00!out.doi", "/build-trace-v2/a.drv/out.doi"]) {
    const body = Buffer.from('{"id":"x"}');
    expect((await raw(serve.url + path, { method: "PUT", body })).status).toBe(200);
    const realisation = await raw(serve.url + path);
    expect(realisation.headers["content-type"]).toBe("application/json");
    expect(realisation.body.equals(body)).toBe(true);
  }
  expect((await raw(`${serve.url}/log/unknown`)).status).toBe(404);
});

test("nix-cache-info may be put and stays what it is", async () => {
  const serve = await start();
  const url = `${serve.url}/nix-cache-info`;
  const before = (await raw(url)).body.toString();
  const body = Buffer.from("StoreDir: /evil\n");
  expect((await raw(url, { method: "PUT", body })).status).toBe(200);
  expect((await raw(url)).body.toString()).toBe(before);
});

const basic = (text: string) => ({
  authorization: `Basic ${Buffer.from(text).toString("base64")}`,
});

test("with a token only who knows it uploads; everybody reads", async () => {
  const path = await makePath("token", TREE);
  const serve = await start({ access: { token: "secret" } });
  const put = (headers: Readonly<Record<string, string>>) =>
    raw(`${serve.url}/${path.narInfo.url}`, { method: "PUT", headers, body: path.file });
  const refused = await put({});
  expect(refused.status).toBe(401);
  expect(refused.headers["www-authenticate"]).toBe('Basic realm="castore"');
  expect((await put(basic("any:wrong"))).status).toBe(403);
  expect((await put({ authorization: "Bearer wrong" })).status).toBe(403);
  expect((await put(basic("anybody:secret"))).status).toBe(200);
  expect((await put({ authorization: "Bearer secret" })).status).toBe(200);
  expect((await raw(`${serve.url}/nix-cache-info`)).status).toBe(200);
});

test("a client that expects 100-continue sends its body only where it is wanted", async () => {
  const path = await makePath("expect", TREE);
  const serve = await start({ access: { token: "secret" } });
  const ask = async (headers: Readonly<Record<string, string>>) => {
    const length = { "content-length": String(path.file.byteLength) };
    const sent = request(`${serve.url}/${path.narInfo.url}`, {
      ...{ method: "PUT", agent: false },
      headers: { ...headers, ...length, expect: "100-continue" },
    });
    let isWanted = false;
    sent.once("continue", () => {
      isWanted = true;
      sent.end(path.file);
    });
    sent.flushHeaders();
    const [response] = await once(sent, "response");
    response.resume();
    sent.destroy();
    return [response.statusCode, isWanted];
  };
  expect(await ask({})).toEqual([401, false]);
  expect(await ask(basic("x:wrong"))).toEqual([403, false]);
  expect(await ask(basic("x:secret"))).toEqual([200, true]);
});

test("an upload that breaks off leaves nothing that anybody can see", async () => {
  const path = await makePath("broken-off", TREE);
  const serve = await start();
  const socket = connect(Number(new URL(serve.url).port), "127.0.0.1");
  const head = `PUT /${path.narInfo.url} HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n`;
  socket.write(head);
  await new Promise((resolve) => socket.write(path.file, resolve));
  socket.destroy();
  expect((await raw(`${serve.url}/${path.narInfo.url}`, { method: "HEAD" })).status).toBe(404);
  expect((await putNarInfo(serve, path)).status).toBe(400);
});

test("an uploaded NAR outlives gc and a restart until its narinfo comes", async () => {
  const directory = mkdtempSync(join(tmpdir(), "castore-upload-"));
  opened.push({
    async [Symbol.asyncDispose]() {
      rmSync(directory, { recursive: true });
    },
  });
  const path = await makePath("pending", TREE);
  const first = await start({ directory });
  await putNar(first, path);
  await first.store.collectGarbage();
  await first[Symbol.asyncDispose]();
  opened.pop();
  const second = await start({ directory });
  await second.store.collectGarbage();
  expect((await putNarInfo(second, path)).status).toBe(200);
  await second.store.collectGarbage();
  const narInfo = (await raw(second.url + narInfoPath(path))).body.toString();
  expect((await narOf(second, narInfo)).equals(path.nar)).toBe(true);
  for await (const pin of second.store.pins.list()) throw new Error(`left: ${pin.name}`);
});

test("an uploaded NAR that no narinfo claims goes with its hour", async () => {
  const path = await makePath("unclaimed", TREE);
  const serve = await start();
  await putNar(serve, path);
  const pins = [];
  for await (const pin of serve.store.pins.list()) pins.push(pin);
  expect(pins.map(({ ttlMs }) => ttlMs)).toEqual([3_600_000]);
  for (const { name } of pins) await serve.store.pins.delete(name);
  const report = await serve.store.collectGarbage();
  expect(report.blobsDeleted).toBe(2);
  expect((await putNarInfo(serve, path)).status).toBe(400);
});
