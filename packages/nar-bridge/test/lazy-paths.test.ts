import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type BlobService,
  type Directory,
  encodeFetchAnswer,
  type FileNode,
  type LocalStore,
  type Node,
  openLocalStore,
  walkFiles,
} from "@castore/castore";
import { expect, it } from "vitest";
import { RootSigningKey, TrustedRootKeys } from "../src/nix/signed-root.ts";
import type { StorePath } from "../src/nix/store-path.ts";
import { createLocalPathInfoService } from "../src/path-infos/local-path-info-service.ts";
import { LazyBlobs } from "../src/substitution/lazy-blobs.ts";
import { LazyPaths } from "../src/substitution/lazy-paths.ts";
import { createStoreRootNodes } from "../src/substitution/store-root-nodes.ts";
import type { Bridge } from "./bridge-fixture.ts";
import { directory, file, gather, type Tree } from "./nar-fixture.ts";
import {
  generateSecretKeyText,
  makePath,
  SECRET_KEY,
  storePathNamed,
  type TestPath,
} from "./path-fixture.ts";
import type { RelayFault } from "./relay.ts";
import type { Serve } from "./serve-fixture.ts";
import { NOISE as MORE_NOISE, startUpgradeWorld, storeHashOf } from "./upgrade-fixture.ts";

const KEY = RootSigningKey.parse(generateSecretKeyText("root-1"));
const TRUSTED = TrustedRootKeys.parse([KEY.publicKey.text]);

/** Some chunks. */
const NOISE = MORE_NOISE.subarray(0, 1_200_000);

const LIBRARY = storePathNamed("library");
const PROGRAM = storePathNamed("program");
const SCRIPT = `#!/nix/store/${LIBRARY}/bin/sh\nexec /nix/store/${PROGRAM}/bin/program\n`;
const SMALL = NOISE.subarray(0, 5_000);

function programTree(): Tree {
  const texts = Object.fromEntries(
    Array.from({ length: 40 }, (_, i) => [`text${i}`, file(`text ${i} `.repeat(60))]),
  );
  const bin = directory({ program: file(NOISE, true), script: file(SCRIPT, true) });
  return directory({ bin, small: file(SMALL), texts: directory(texts) });
}

const makeLibrary = () => makePath("library", directory({ so: file(NOISE.subarray(0, 20_000)) }));
const makeProgram = (tree = programTree()) =>
  makePath("program", tree, { references: [LIBRARY, "self"] });

type Options = NonNullable<Parameters<typeof startUpgradeWorld>[1]>;

/** A server with these paths and the library, and the parts of a bridge. */
async function start(paths: readonly TestPath[], options: Options = {}) {
  const settings = { rootSigningKeys: [KEY], rootKeys: TRUSTED, ...options };
  return startUpgradeWorld([await makeLibrary(), ...paths], settings);
}

function lazyOf(bridge: Bridge, contents: LocalStore = bridge.store) {
  const { store, pathInfos, substituter, trustedKeys, log: lines } = bridge;
  const log = (line: string) => void lines.push(line);
  const paths = new LazyPaths({ store, contents, pathInfos, substituter, trustedKeys, log });
  const blobs = new LazyBlobs({ store: contents, paths, substituter, log });
  const roots = createStoreRootNodes({
    ...{ store, pathInfos, substituter, lazyPaths: paths, pin: "test" },
  });
  const get = (storePath: StorePath) => roots.get(storePath as string as never);
  return { paths, blobs, roots, get };
}

/** The files below a root, those of equal contents once, by size. */
async function filesOf(node: Node | undefined, { directories }: LocalStore): Promise<FileNode[]> {
  const files: FileNode[] = [];
  if (node === undefined) throw new Error("no root");
  for await (const found of walkFiles(node, (digest) => directories.get(digest))) files.push(found);
  return files.sort((a, b) => a.size - b.size);
}

async function read(blobs: Pick<BlobService, "open">, { digest, size }: FileNode): Promise<Buffer> {
  await using reader = await blobs.open(digest, { size });
  const pieces: Uint8Array[] = [];
  for await (const piece of reader?.stream() ?? []) pieces.push(piece);
  return Buffer.concat(pieces);
}

const fileOf = (files: readonly FileNode[], bytes: Uint8Array | string): FileNode => {
  const found = files.find(({ size }) => size === Buffer.from(bytes).byteLength);
  if (found === undefined) throw new Error("no such file");
  return found;
};

async function* noBytes(): AsyncGenerator<Uint8Array> {}

/** An answer to a fetch of one item, which the server does not have. */
const LACKING = await gather(
  encodeFetchAnswer([{ index: 0, status: "missing", encoding: "none", bytes: new Uint8Array(0) }]),
);

/** Makes the server claim, and sign, that `path` has the root of `other`. */
async function lie(serve: Serve, path: TestPath, other: TestPath): Promise<void> {
  const honest = await serve.pathInfos.get(storeHashOf(path));
  const { node } = (await serve.pathInfos.get(storeHashOf(other))) ?? {};
  if (honest === undefined || node === undefined) throw new Error("not uploaded");
  const pathInfo = { ...honest, node, rootSignatures: [KEY.sign(honest, node)] };
  await serve.pathInfos.putStored([{ pathInfo, proof: { by: "rendered" } }]);
}

it("a vouched path costs the metadata of its closure, then each file that is opened", async () => {
  await using world = await start([await makeProgram()]);
  const { relay, bridge } = world;
  const { get, blobs } = lazyOf(bridge);
  const root = await get(PROGRAM);
  expect(root).toMatchObject({ lazy: true, final: false });
  expect(relay.seen(/^POST .*closure/).length).toBe(1);
  expect(relay.seen(/fetch|chunks|\/nar\//)).toEqual([]);
  const metadata = relay.bytes(/./);
  expect(metadata).toBeLessThan(10_000);

  const files = await filesOf(root?.node, bridge.store);
  expect(String(await read(blobs, fileOf(files, SCRIPT)))).toBe(SCRIPT);
  expect(relay.bytes(/fetch/)).toBeLessThan(1_000);
  expect(NOISE.equals(await read(blobs, fileOf(files, NOISE)))).toBe(true);
  expect(relay.bytes(/fetch/)).toBeLessThan(NOISE.byteLength + 10_000);
  expect(await bridge.store.blobs.has(fileOf(files, SMALL).digest)).toBe(false);
  expect(relay.seen(/\/nar\//)).toEqual([]);

  // What it refers to is known by now.
  const before = relay.requests.length;
  expect(await get(LIBRARY)).toMatchObject({ lazy: true });
  expect(relay.requests.length).toBe(before);
});

it("what comes file by file goes where contents belong, however large it is", async () => {
  await using world = await start([await makeProgram()]);
  const { store } = world.bridge;
  const path = await mkdtemp(join(tmpdir(), "castore-contents-"));
  const contents = await openLocalStore({ path, create: true });
  const { get, blobs } = lazyOf(world.bridge, contents);
  const files = await filesOf((await get(PROGRAM))?.node, store);
  for (const bytes of [SCRIPT, SMALL, NOISE]) {
    const wanted = fileOf(files, bytes);
    expect((await read(blobs, wanted)).equals(Buffer.from(bytes))).toBe(true);
    await blobs.idle();
    expect(await contents.blobs.has(wanted.digest)).toBe(true);
    expect(await store.blobs.has(wanted.digest)).toBe(false);
  }
  await contents.close();
  await rm(path, { recursive: true });
});

it("files that are opened at the same time are fetched by one request", async () => {
  await using world = await start([await makeProgram()]);
  const { relay, bridge } = world;
  const { get, blobs } = lazyOf(bridge);
  const files = await filesOf((await get(PROGRAM))?.node, bridge.store);
  const texts = files.slice(0, 40);
  await Promise.all(texts.map((text) => read(blobs, text)));
  expect(relay.seen(/fetch/).length).toBe(1);
});

it("what was vouched for is used by the next process, without the server's word anew", async () => {
  await using world = await start([await makeProgram()]);
  const { relay, bridge } = world;
  await lazyOf(bridge).get(PROGRAM);
  const before = relay.requests.length;
  const { get, blobs } = lazyOf(bridge);
  const root = await get(PROGRAM);
  expect(root).toMatchObject({ lazy: true });
  expect(relay.requests.length).toBe(before);
  const files = await filesOf(root?.node, bridge.store);
  expect(NOISE.equals(await read(blobs, fileOf(files, NOISE)))).toBe(true);
});

it("a path is fetched whole where no root key is trusted, or none signed", async () => {
  const program = await makeProgram();
  const text = KEY.publicKey.text;
  for (const options of [
    { rootKeys: TrustedRootKeys.parse([]) },
    { rootSigningKeys: [] },
    // A narinfo key is no root key, whoever has both names on his list.
    {
      rootKeys: TrustedRootKeys.parse([SECRET_KEY.publicKey.text]),
      keys: [SECRET_KEY.publicKey.text, text],
    },
  ]) {
    await using world = await start([program], options);
    expect(await lazyOf(world.bridge).get(PROGRAM)).toMatchObject({ lazy: false, final: true });
  }
});

it("a root key is no narinfo key: what it alone vouches for is not there", async () => {
  await using world = await start([await makeProgram()], { keys: [KEY.publicKey.text] });
  expect(await lazyOf(world.bridge).get(PROGRAM)).toBeUndefined();
});

it("a signature of another path, replayed, vouches for nothing", async () => {
  const [library, program] = [await makeLibrary(), await makeProgram()];
  await using world = await start([program]);
  const { serve, bridge } = world;
  const [from, to] = [
    await serve.pathInfos.get(storeHashOf(library)),
    await serve.pathInfos.get(storeHashOf(program)),
  ];
  if (from === undefined || to === undefined) throw new Error("not uploaded");
  const { node, rootSignatures } = from;
  await serve.pathInfos.putStored([
    { pathInfo: { ...to, node, rootSignatures }, proof: { by: "rendered" } },
  ]);
  expect(await lazyOf(bridge).paths.vouched(storeHashOf(program))).toBeUndefined();
  expect(await bridge.pathInfos.getStored(storeHashOf(program))).toBeUndefined();
});

it("without its key, what was vouched for is as if it were not there", async () => {
  await using world = await start([await makeProgram()]);
  const { relay, bridge } = world;
  await lazyOf(bridge).get(PROGRAM);
  const pathInfos = createLocalPathInfoService(bridge.store, {
    calculateNar: () => Promise.reject(new Error("not asked for")),
  });
  const { get } = lazyOf({ ...bridge, pathInfos });
  expect(relay.seen(/fetch/)).toEqual([]);
  expect(await get(PROGRAM)).toMatchObject({ lazy: false, final: true });
  expect(relay.seen(/fetch/).length).toBeGreaterThan(0);
});

it("is substituted whole although it was vouched for", async () => {
  const program = await makeProgram();
  await using world = await start([program]);
  const { bridge } = world;
  await lazyOf(bridge).get(PROGRAM);
  const { signal } = new AbortController();
  const { isPresent } = await bridge.substituter.substitute(storeHashOf(program), { signal });
  expect(isPresent).toBe(false);
  expect((await bridge.pathInfos.getStored(storeHashOf(program)))?.proof.by).toBe("rendered");
});

it("that was read to its last byte is proven, and no longer lazy", async () => {
  await using world = await start([await makeProgram()]);
  const { bridge } = world;
  const { get, blobs, paths } = lazyOf(bridge);
  const files = await filesOf((await get(PROGRAM))?.node, bridge.store);
  for (const found of files.slice(1)) await read(blobs, found);
  await blobs.idle();
  await paths.prove();
  expect(await get(PROGRAM)).toMatchObject({ lazy: true });
  await read(blobs, files[0] as FileNode);
  await paths.prove();
  expect(await get(PROGRAM)).toMatchObject({ lazy: false, final: true });
});

it("a root that renders to another NAR bars its key in this store, for all paths", async () => {
  const [library, program] = [await makeLibrary(), await makeProgram()];
  const other = await makePath("other", directory({ evil: file("evil") }));
  await using world = await start([program, other]);
  const { serve, bridge } = world;
  await lie(serve, program, other);
  const { get, blobs, paths } = lazyOf(bridge);
  const files = await filesOf((await get(PROGRAM))?.node, bridge.store);
  expect(String(await read(blobs, files[0] as FileNode))).toBe("evil");
  expect(await get(LIBRARY)).toMatchObject({ lazy: true });
  await paths.prove();
  expect(bridge.log.join("\n")).toContain(`barred ${KEY.publicKey.text}`);
  expect(await bridge.pathInfos.getStored(storeHashOf(library))).toBeUndefined();
  await expect(lazyOf(bridge).paths.vouched(storeHashOf(library))).resolves.toBeUndefined();
  expect(await get(LIBRARY)).toMatchObject({ lazy: false, final: true });
});

it("a NAR that has another root than was vouched for bars the key", async () => {
  const [program, other] = [
    await makeProgram(),
    await makePath("other", directory({ a: file("b") })),
  ];
  await using world = await start([program, other]);
  const { serve, bridge } = world;
  await lie(serve, program, other);
  await lazyOf(bridge).get(PROGRAM);
  // From a cache that has the right one.
  await using right = await start([program], { rootSigningKeys: [] });
  const { signal } = new AbortController();
  await right.bridge.substituter.substitute(storeHashOf(program), { signal });
  const proven = await right.bridge.pathInfos.getStored(storeHashOf(program));
  if (proven === undefined) throw new Error("not substituted");
  const { node } = proven.pathInfo;
  if (node.type !== "directory") throw new Error("no directory");
  const directories: Directory[] = [];
  for await (const found of right.bridge.store.directories.getClosure(node.digest)) {
    directories.unshift(found);
  }
  await bridge.store.directories.putClosure(directories);
  await bridge.pathInfos.putStored([proven]);
  expect(bridge.log.join("\n")).toContain(`barred ${KEY.publicKey.text}`);
  expect((await bridge.pathInfos.getStored(storeHashOf(program)))?.proof.by).toBe("rendered");
});

it("part of a large file costs that part, and what verifies it", async () => {
  await using world = await start([await makeProgram()]);
  const { relay, bridge } = world;
  const { get, blobs } = lazyOf(bridge);
  const { digest, size } = fileOf(await filesOf((await get(PROGRAM))?.node, bridge.store), NOISE);
  const part = async (from: number, to: number): Promise<Buffer> => {
    await using reader = await blobs.open(digest, { size });
    return await gather(reader?.stream(from, to) ?? noBytes());
  };
  expect(await part(500_000, 500_100)).toEqual(NOISE.subarray(500_000, 500_100));
  expect(
    relay
      .seen(/./)
      .slice(-2)
      .map(({ path }) => path.slice(0, 17))
      .sort(),
  ).toEqual(["/castore/fetch", "/castore/outboard"]);
  expect(relay.bytes(/outboard/)).toBe(64 * Math.floor(NOISE.byteLength / 16_384));
  expect(relay.bytes(/fetch/)).toBeLessThan(600_000);
  expect(await bridge.store.blobs.has(digest)).toBe(false);
  // All of it makes it a blob like any other.
  expect(NOISE.equals(await part(0, size))).toBe(true);
  await blobs.idle();
  expect(await bridge.store.blobs.has(digest)).toBe(true);
  expect(relay.bytes(/fetch/)).toBeLessThan(NOISE.byteLength + 10_000);
});

it("a large file of which all is wanted comes in one request, without its outboard", async () => {
  await using world = await start([await makeProgram()]);
  const { relay, bridge } = world;
  const { get, blobs } = lazyOf(bridge);
  const { digest, size } = fileOf(await filesOf((await get(PROGRAM))?.node, bridge.store), NOISE);
  await using reader = await blobs.open(digest, { size, whole: true });
  expect(NOISE.equals(await gather(reader?.stream() ?? noBytes()))).toBe(true);
  expect(relay.seen(/outboard/)).toEqual([]);
  expect(relay.seen(/fetch/).length).toBe(1);
  expect(await bridge.store.blobs.has(digest)).toBe(true);
});

it.each<readonly [string, RelayFault]>([
  ["absent", { kind: "status", status: 404 }],
  ["wrong", { kind: "change", change: (body) => body.fill(1, 70, 90) }],
  ["too long", { kind: "change", change: (body) => Buffer.concat([body, body]) }],
])("a large file comes whole where its outboard is %s", async (_, fault) => {
  await using world = await start([await makeProgram()]);
  const { relay, bridge } = world;
  const { get, blobs } = lazyOf(bridge);
  const large = fileOf(await filesOf((await get(PROGRAM))?.node, bridge.store), NOISE);
  relay.faults.push([/outboard/, fault]);
  expect(NOISE.equals(await read(blobs, large))).toBe(true);
  expect(bridge.log.join("\n")).toMatch(/outboard/);
  expect(relay.seen(/\/nar\//)).toEqual([]);
});

it.each<readonly [string, RelayFault]>([
  ["fails", { kind: "status", status: 500 }],
  ["lacks it", { kind: "change", change: () => LACKING }],
  ["gives it wrongly", { kind: "change", change: (body) => body.fill(1, 10, 40) }],
])("a file comes with its whole path where the castore server %s", async (_, fault) => {
  await using world = await start([await makeProgram()]);
  const { relay, bridge } = world;
  const { get, blobs } = lazyOf(bridge);
  const files = await filesOf((await get(PROGRAM))?.node, bridge.store);
  relay.faults.push([/fetch/, fault]);
  expect(await read(blobs, fileOf(files, SMALL))).toEqual(SMALL);
  expect(relay.seen(/fetch/).length).toBeGreaterThan(0);
  expect(await get(PROGRAM)).toMatchObject({ lazy: false, final: true });
});

it("an answer that was cut short is asked for once more", async () => {
  await using world = await start([await makeProgram()]);
  const { relay, bridge } = world;
  const { get, blobs } = lazyOf(bridge);
  const files = await filesOf((await get(PROGRAM))?.node, bridge.store);
  let isFirst = true;
  const change = (body: Buffer) => {
    const length = isFirst ? 20 : body.byteLength;
    isFirst = false;
    return body.subarray(0, length);
  };
  relay.faults.push([/fetch/, { kind: "change", change }]);
  expect(await read(blobs, fileOf(files, SMALL))).toEqual(SMALL);
  expect(relay.seen(/fetch/).length).toBe(2);
  expect(relay.seen(/\/nar\//)).toEqual([]);
});
