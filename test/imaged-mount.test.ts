import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { zstdCompress, zstdDecompress } from "@castore/castore";
import { afterAll, beforeAll, expect, it } from "vitest";
import { type CastoreProcess, castoreProgram, startCastore } from "./support/castore-process.ts";
import { compareTrees } from "./support/compare-trees.ts";
import { type CountingProxy, startCountingProxy } from "./support/counting-proxy.ts";
import { createNixWorld, type NixWorld } from "./support/nix-world.ts";

const execute = promisify(execFile);
const BIG_BYTES = 3_000_000;
const IMAGE_BYTES_MAX = 1 << 24;

let world: NixWorld;
let app: string;
let paths: readonly string[];
let rootKey: string;
let serve: CastoreProcess;
let proxy: CountingProxy;
const mounts: ChildProcess[] = [];

beforeAll(async () => {
  world = await createNixWorld();
  app = await world.build("app", { bigBytes: `${BIG_BYTES}` });
  paths = (await world.pathInfos(world.store.uri, [app])).map(({ path }) => path);
  const keyFile = await world.createKey("roots-1");
  rootKey = await world.publicKeyOf(keyFile);
  const boot = world.temporary("boot");
  mkdirSync(boot);
  for (const name of ["kernel", "initrd"]) writeFileSync(join(boot, name), name);
  serve = await startCastore("netboot serve", [
    ...["--boot", boot, "--store", world.temporary("serve")],
    ...["--root-signing-key", keyFile, "--signing-key", world.secretKeyFile],
  ]);
  const to = `${serve.url}?compression=none`;
  await world.run("nix", ["copy", "--store", world.store.uri, "--to", to, app]);
  proxy = await startCountingProxy(serve.url);
});
afterAll(async () => {
  for (const child of mounts) child.kill("SIGTERM");
  for (const part of [proxy, serve, world]) await part[Symbol.asyncDispose]();
});

const imageOf = async (storePath: string) => {
  const answer = await fetch(`${serve.url}/boot/images/${storePath.replace("/nix/store/", "")}`);
  return { status: answer.status, bytes: Buffer.from(await answer.arrayBuffer()) };
};

/** Mounts the closure of `app` with an image; what the command said, too. */
async function mount(image: Uint8Array) {
  const at = world.temporary("mnt");
  mkdirSync(at);
  const [list, file] = [world.temporary("list"), world.temporary("image")];
  const registration = world.temporary("registration");
  writeFileSync(list, `${app}\n`);
  writeFileSync(file, image);
  const child = spawn(
    process.execPath,
    [
      ...[castoreProgram(), "mount", "--kernel", "--paths-from", list, "--image", file],
      ...["--store", world.temporary("store"), "--upstream", proxy.url],
      ...["--trusted-public-key", world.publicKey, "--trusted-root-key", rootKey],
      ...["--registration", registration, at],
    ],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  mounts.push(child);
  let log = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    log += text;
  });
  await once(child.stdout, "data");
  const inMount = (path: string) => path.replace("/nix/store", at);
  return { at, inMount, registration, log: () => log };
}

async function umount(at: string): Promise<void> {
  await execute(process.execPath, [castoreProgram(), "umount", at]);
  const child = mounts.pop();
  if (child?.exitCode === null) await once(child, "exit");
}

const kinds = () => proxy.requests.map(({ path }) => path.split("/").slice(0, 3).join("/"));

it("a closure is mounted from its image without a question, files come one by one", async () => {
  const { status, bytes } = await imageOf(app);
  expect(status).toBe(200);
  proxy.clear();
  const { at, inMount, registration, log } = await mount(bytes);
  await execute("find", [at, "-printf", "%s %m %l %p\n"]);
  // What the cache says of itself, and nothing about its paths.
  expect(kinds()).toEqual(["/nix-cache-info"]);
  expect((await execute("head", ["-c", "20", join(inMount(app), "bin/app")])).stdout).toBe(
    readFileSync(world.store.fileOf(join(app, "bin/app")), "latin1").slice(0, 20),
  );
  expect(proxy.requests.length).toBeLessThan(6);
  expect(proxy.bytesDown).toBeLessThan(BIG_BYTES / 10);
  for (const path of paths) {
    expect(await compareTrees(world.store.fileOf(path), inMount(path))).toEqual([]);
  }
  expect(kinds()).not.toContain("/castore/closure");
  expect(log()).toBe("");
  const into = world.createStore();
  await world.run("sh", ["-c", `nix-store --store '${into.uri}' --load-db <'${registration}'`]);
  const known = await world.run("nix-store", ["--store", into.uri, "-qR", app]);
  expect(known.stdout.trim().split("\n").sort()).toEqual([...paths].sort());
  await umount(at);
}, 180_000);

it("small files come with those that stand next to them", async () => {
  const { bytes } = await imageOf(app);
  const { at, inMount, log } = await mount(bytes);
  const many = inMount(paths.find((path) => path.endsWith("-many")) ?? "");
  // The files of one directory: its first brings the others.
  const first = async (directory: string) => {
    const [name = ""] = (await readdir(join(many, directory))).sort();
    await readFile(join(many, directory, name));
  };
  await first("d0");
  proxy.clear();
  await first("d1");
  const names = await readdir(join(many, "d1"));
  expect(names.length).toBe(30);
  for (const name of names) await readFile(join(many, "d1", name));
  const { length } = proxy.requests;
  expect(length).toBeGreaterThan(0);
  expect(length).toBeLessThanOrEqual(2);
  // What lies elsewhere did not come.
  await first("d2");
  expect(proxy.requests.length).toBeGreaterThan(length);
  expect(log()).toBe("");
  await umount(at);
}, 180_000);

it("an image that was changed is not used, the closure comes without it", async () => {
  const { bytes } = await imageOf(app);
  const open = Buffer.from(zstdDecompress(bytes, IMAGE_BYTES_MAX));
  const at = open.length - 100;
  open[at] = (open[at] ?? 0) ^ 1;
  proxy.clear();
  const mounted = await mount(zstdCompress(open));
  expect(mounted.log()).toMatch(/--image .*: is not used: .*no trusted root key signed it/);
  expect(kinds()).toContain("/castore/closure");
  for (const path of paths) {
    expect(await compareTrees(world.store.fileOf(path), mounted.inMount(path))).toEqual([]);
  }
  await umount(mounted.at);
}, 180_000);

it("there is no image of what the store does not have", async () => {
  const absent = `/nix/store/${"0".repeat(32)}-absent`;
  for (const name of [absent, "no path", "..%2f..%2fkernel"]) {
    expect((await imageOf(name)).status).toBe(404);
  }
});
