import {
  createZstdDecoder,
  type Digest,
  decodeFetchAnswer,
  digestOf,
  encodeClosureRequest,
  encodeFetchRequest,
  FETCH_REQUEST_ITEMS_MAX,
  type FetchFrame,
  fetchFrameContents,
  zstdDecompress,
} from "@castore/castore";
import { afterEach, expect, test } from "vitest";
import { parseNarInfo } from "../src/nix/nar-info-text.ts";
import { decodeClosureStream } from "../src/path-infos/closure-stream.ts";
import { FETCH_ANSWER_BYTES_MAX } from "../src/substitution/fetch-source.ts";
import { directory, file, gather } from "./nar-fixture.ts";
import { makePath, narInfoPath, type TestPath } from "./path-fixture.ts";
import { raw } from "./raw-client.ts";
import { type Serve, type ServeOptions, startServe, upload } from "./serve-fixture.ts";
import { makeProgram, NOISE, storeHashOf } from "./upgrade-fixture.ts";

const opened: AsyncDisposable[] = [];
afterEach(async () => {
  for (const resource of opened.splice(0).reverse()) await resource[Symbol.asyncDispose]();
});

async function start(paths: readonly TestPath[], options: ServeOptions = {}): Promise<Serve> {
  const serve = await startServe(options);
  opened.push(serve);
  await upload(serve, ...paths);
  return serve;
}

const TREE = directory({ bin: file("tool".repeat(50_000), true), note: file("note") });

async function narUrl(serve: Serve, path: TestPath): Promise<string> {
  const { body } = await raw(serve.url + narInfoPath(path));
  return `${serve.url}/${parseNarInfo(body.toString()).url}`;
}

test("nix-cache-info offers castore, unless told not to", async () => {
  const path = await makePath("plain", TREE);
  const serve = await start([]);
  const text = (await raw(`${serve.url}/nix-cache-info`)).body.toString();
  expect(text).toMatch(/^StoreDir: \/nix\/store\nWantMassQuery: 1\nPriority: \d+\n/);
  expect(text).toMatch(/\nUpgrade: castore\/1 castore\/\n$/);
  const plain = await start([path], { upgrade: false });
  expect((await raw(`${plain.url}/nix-cache-info`)).body.toString()).not.toContain("Upgrade");
  expect((await raw(`${plain.url}/castore/info`)).status).toBe(404);
  expect((await raw(await narUrl(plain, path))).body.equals(path.nar)).toBe(true);
});

test("a NAR is served with ranges, and compressed to who asks for it", async () => {
  const path = await makePath("ranges", TREE);
  const serve = await start([path]);
  const url = await narUrl(serve, path);
  const size = path.nar.byteLength;
  const whole = await raw(url);
  expect(whole.headers).toMatchObject({
    "content-type": "application/x-nix-nar",
    "content-length": String(size),
    "accept-ranges": "bytes",
  });
  expect(whole.body.equals(path.nar)).toBe(true);
  const rest = await raw(url, { headers: { range: "bytes=100000-" } });
  expect(rest.status).toBe(206);
  expect(rest.headers["content-range"]).toBe(`bytes 100000-${size - 1}/${size}`);
  expect(rest.body.equals(path.nar.subarray(100_000))).toBe(true);
  expect((await raw(url, { headers: { range: `bytes=${size}-` } })).status).toBe(416);
  const headers = { "accept-encoding": "deflate, gzip, br, zstd" };
  const zstd = await raw(url, { headers });
  expect(zstd.headers["content-encoding"]).toBe("zstd");
  expect(zstd.headers["accept-ranges"]).toBeUndefined();
  expect(zstd.body.byteLength).toBeLessThan(size / 10);
  expect((await gather(createZstdDecoder()([zstd.body]))).equals(path.nar)).toBe(true);
  const never = await raw(url, { headers: { "accept-encoding": "zstd;q=0, gzip" } });
  expect(never.headers["content-encoding"]).toBeUndefined();
  const head = await raw(url, { method: "HEAD" });
  expect(head.headers["content-length"]).toBe(String(size));
});

test("a NAR under a size that is not its own is 400, an unknown root is no 200", async () => {
  const path = await makePath("size", TREE);
  const serve = await start([path]);
  const url = await narUrl(serve, path);
  expect((await raw(url.replace(/narsize=\d+/, "narsize=104"))).status).toBe(400);
  expect((await raw(url.replace(/\?.*/, ""))).status).toBe(400);
  const empty = await start([]);
  const elsewhere = url.replace(serve.url, empty.url);
  expect((await raw(elsewhere)).status).not.toBe(200);
});

test("a listing names what is in the NAR and where", async () => {
  const path = await makePath("listed", TREE);
  const serve = await start([path]);
  const answer = await raw(serve.url + narInfoPath(path).replace("narinfo", "ls"));
  expect(answer.headers["content-type"]).toMatch(/^application\/json/);
  const { version, root } = JSON.parse(answer.body.toString());
  expect(version).toBe(1);
  expect(root.entries.note.size).toBe(4);
  const { narOffset } = root.entries.note;
  expect(path.nar.subarray(narOffset, narOffset + 4).toString()).toBe("note");
});

/** Everything below /castore/ that is one immutable object of a path. */
async function objects(serve: Serve, path: TestPath) {
  const pathInfo = await serve.pathInfos.get(storeHashOf(path));
  if (pathInfo?.node.type !== "directory") throw new Error("want a directory");
  return { root: pathInfo.node.digest, storeHash: storeHashOf(path) };
}

test("GET and HEAD of castore objects agree, and say how long they may be kept", async () => {
  const [shell, program] = await makeProgram(1);
  if (shell === undefined || program === undefined) throw new Error("no program");
  const serve = await start([shell, program]);
  const { root, storeHash } = await objects(serve, program);
  const small = digestOf(Buffer.from("shell 1"));
  const immutable = [
    `dirs/b3/${root.slice(0, 4)}/${root}`,
    `recipe/${root}`,
    `chunks/b3/${small.slice(0, 4)}/${small}`,
    `blob/${small}`,
  ];
  for (const path of [...immutable, "info", `pathinfo/${storeHash}`, `closure/${storeHash}`]) {
    const get = await raw(`${serve.url}/castore/${path}`);
    expect([path, get.status]).toEqual([path, 200]);
    const isImmutable = /immutable/.test(get.headers["cache-control"] ?? "");
    expect([path, isImmutable]).toEqual([path, immutable.includes(path)]);
    const head = await raw(`${serve.url}/castore/${path}`, { method: "HEAD" });
    expect([path, head.status, head.body.byteLength]).toEqual([path, 200, 0]);
    expect(head.headers["content-type"]).toBe(get.headers["content-type"]);
  }
  const chunk = await raw(`${serve.url}/castore/chunks/b3/${small.slice(0, 4)}/${small}`);
  expect(Buffer.from(zstdDecompress(chunk.body, 100)).toString()).toBe("shell 1");
  const part = await raw(`${serve.url}/castore/blob/${small}`, {
    headers: { range: "bytes=6-" },
  });
  expect([part.status, part.body.toString()]).toEqual([206, "1"]);
  const other = root.replace(/^..../, root.startsWith("0000") ? "1111" : "0000");
  for (const path of [`chunks/b3/${small.slice(0, 4)}/${other}`, `dirs/b3/0000/x`, "recipe/x"]) {
    expect((await raw(`${serve.url}/castore/${path}`)).status).toBe(404);
  }
});

test("a recipe is there once a path was uploaded, or its path info was asked for", async () => {
  const [shell, program] = await makeProgram(1);
  if (shell === undefined || program === undefined) throw new Error("no program");
  const serve = await start([shell, program], { upgrade: false });
  const { root, storeHash } = await objects(serve, program);
  const late = await start([], { directory: serve.directory });
  const recipe = `${late.url}/castore/recipe/${root}`;
  expect((await raw(recipe)).status).toBe(404);
  await raw(`${late.url}/castore/pathinfo/${storeHash}`);
  const made = await raw(recipe);
  expect(made.status).toBe(200);
  const uploaded = await start([shell, program]);
  const same = await raw(`${uploaded.url}/castore/recipe/${root}`);
  expect(same.body.equals(made.body)).toBe(true);
});

async function fetchItems(serve: Serve, chunks: readonly Digest[]) {
  const body = encodeFetchRequest({ chunks, ranges: [] });
  const answer = await raw(`${serve.url}/castore/fetch`, { method: "POST", body });
  expect(answer.headers["cache-control"]).toBe("no-store");
  expect(answer.headers["x-accel-buffering"]).toBe("no");
  const items: { status: string; bytes: number }[] = [];
  for await (const frame of decodeFetchAnswer([answer.body], chunks.length)) {
    const { status } = frame;
    const bytes = status === "done" ? fetchFrameContents(frame).byteLength : 0;
    items.push({ status, bytes });
  }
  return items;
}

test("fetch answers in order, names what is missing, and leaves out what is too much", async () => {
  const path = await makePath("fetched", directory({ big: file(NOISE) }));
  const serve = await start([path]);
  const chunks = (await serve.store.blobs.chunks(digestOf(NOISE))) ?? [];
  const first = chunks[0]?.digest ?? digestOf(NOISE);
  const unknown = digestOf(Buffer.from("unknown"));
  const [one, missing, again] = await fetchItems(serve, [first, unknown, first]);
  expect(one).toEqual({ status: "done", bytes: chunks[0]?.size });
  expect(missing).toEqual({ status: "missing", bytes: 0 });
  expect(again).toEqual(one);
  const many = Array.from({ length: FETCH_REQUEST_ITEMS_MAX }, () => first);
  const items = await fetchItems(serve, many);
  const sent = items.reduce((sum, { bytes }) => sum + bytes, 0);
  expect(sent).toBeLessThanOrEqual(FETCH_ANSWER_BYTES_MAX);
  expect(sent).toBeGreaterThan(FETCH_ANSWER_BYTES_MAX - 512 * 1024);
  expect(items.at(-1)?.status).toBe("leftOut");
  expect(items.length).toBe(many.length);
});

test("fetch sends contents as they are to who asks for that, else as zstd", async () => {
  const prose = Buffer.from("all work and no play ".repeat(5_000));
  const serve = await start([await makePath("prose", directory({ prose: file(prose) }))]);
  const body = encodeFetchRequest({ chunks: [digestOf(prose)], ranges: [] });
  const ask = async (headers: Readonly<Record<string, string>>) => {
    const url = `${serve.url}/castore/fetch`;
    const answer = await raw(url, { method: "POST", headers, body });
    const frames: FetchFrame[] = [];
    for await (const frame of decodeFetchAnswer([answer.body], 1)) frames.push(frame);
    expect(frames.map(fetchFrameContents)).toEqual([prose]);
    return frames.map(({ encoding }) => encoding);
  };
  for (let i = 0; i < 2; i++) {
    expect(await ask({})).toEqual(["zstd"]);
    expect(await ask({ "castore-encoding": "none" })).toEqual(["none"]);
    expect(await ask({ "castore-encoding": "zstd, none" })).toEqual(["zstd"]);
  }
});

test("requests that are malformed or too large are refused", async () => {
  const serve = await start([]);
  const post = async (route: string, body: Buffer) => {
    return (await raw(`${serve.url}/castore/${route}`, { method: "POST", body })).status;
  };
  for (const route of ["fetch", "closure"]) {
    expect(await post(route, Buffer.from("nonsense"))).toBe(400);
    expect(await post(route, Buffer.alloc(0))).toBe(400);
    expect(await post(route, Buffer.alloc(2 << 20))).toBe(413);
  }
});

test("a closure has what is referred to, and says what is absent", async () => {
  const program = await makeProgram(1);
  const serve = await start(program);
  const [shell, top] = program.map(storeHashOf);
  const absent = storeHashOf(await makePath("absent", TREE));
  const wanted = [top ?? absent, absent];
  const ask = async (known: readonly string[]) => {
    const body = encodeClosureRequest({ wanted, follow: true, known, summaries: false });
    const answer = await raw(`${serve.url}/castore/closure`, { method: "POST", body });
    const kinds: string[] = [];
    const stream = createZstdDecoder()([answer.body]);
    for await (const { kind } of decodeClosureStream(stream)) kinds.push(kind);
    return kinds.sort();
  };
  const all = await ask([]);
  expect(all.filter((kind) => kind === "pathInfo").length).toBe(2);
  expect(all.filter((kind) => kind === "absent").length).toBe(1);
  expect(all.filter((kind) => kind === "directory").length).toBe(3);
  const less = await ask([shell ?? absent]);
  expect(less.filter((kind) => kind === "pathInfo").length).toBe(1);
});
