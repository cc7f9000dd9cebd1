import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { lstatSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, it } from "vitest";
import { type CastoreProcess, castoreProgram, startCastore } from "./support/castore-process.ts";
import { compareTrees } from "./support/compare-trees.ts";
import { type CountingProxy, startCountingProxy } from "./support/counting-proxy.ts";
import type { Nginx } from "./support/nginx.ts";
import { createNixWorld, type NixWorld } from "./support/nix-world.ts";
import { staticNginx } from "./support/static-host.ts";

const execute = promisify(execFile);
const BIG_BYTES = 6_000_000;

let world: NixWorld;
let app: string;
let paths: readonly string[];
let serve: CastoreProcess;
let nginx: Nginx;
/** Before castore serve, and before an export of the same. */
let proxy: CountingProxy;
let exportProxy: CountingProxy;
let rootKey: string;
const mounts: ChildProcess[] = [];

beforeAll(async () => {
  world = await createNixWorld();
  app = await world.build("app", { bigBytes: `${BIG_BYTES}` });
  paths = (await world.pathInfos(world.store.uri, [app])).map(({ path }) => path);
  const cache = await world.copyToCache([app], "none");
  const keyFile = await world.createKey("roots-1");
  const store = world.temporary("serve");
  serve = await startCastore("serve", ["--store", store, "--root-signing-key", keyFile]);
  await world.run("nix", ["copy", "--from", `file://${cache}`, "--to", serve.url, app]);
  const info = await (await fetch(`${serve.url}/castore/info`)).text();
  rootKey = JSON.parse(info).rootKeys[0];
  proxy = await startCountingProxy(serve.url);
  const exported = world.temporary("exported");
  const how = ["--compression", "zstd:1", "--root-signing-key", keyFile];
  await execute(process.execPath, [
    ...[castoreProgram(), "export", "--store", store, "--to", exported, ...how, app],
  ]);
  nginx = await staticNginx(exported);
  exportProxy = await startCountingProxy(nginx.url);
});
afterAll(async () => {
  for (const child of mounts) child.kill("SIGTERM");
  for (const part of [exportProxy, nginx, proxy, serve, world]) await part[Symbol.asyncDispose]();
});

async function mount(
  store: string,
  { url }: CountingProxy,
  ...more: readonly string[]
): Promise<string> {
  const at = world.temporary("mnt");
  mkdirSync(at);
  const upstream = ["--upstream", url, "--trusted-public-key", world.publicKey];
  const args = ["mount", "--store", store, ...upstream, ...more, at];
  const child = spawn(process.execPath, [castoreProgram(), ...args], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  mounts.push(child);
  await once(child.stdout, "data");
  return at;
}

async function umount(at: string): Promise<void> {
  await execute(process.execPath, [castoreProgram(), "umount", at]);
  const child = mounts.pop();
  if (child?.exitCode === null) await once(child, "exit");
}

it("with a trusted root key a mount fetches the files that are read, and no others", async () => {
  const store = world.temporary("store");
  const at = await mount(store, proxy, "--list-root", "--trusted-root-key", rootKey);
  const inMount = (path: string) => path.replace("/nix/store", at);
  proxy.clear();
  await execute("find", [inMount(app)]);
  const data = paths.find((path) => path.endsWith("-data")) ?? "";
  const { stdout } = await execute("find", [inMount(data), "-type", "f", "-size", `${BIG_BYTES}c`]);
  expect(stdout).not.toBe("");
  // All metadata of the closure, in one request beside the narinfo and what the server offers.
  expect(proxy.requests.map(({ path }) => path.replace(/\w{32}/, "HASH"))).toEqual([
    "/HASH.narinfo",
    "/castore/info",
    "/castore/closure",
  ]);
  const directories = paths.filter((path) => lstatSync(world.store.fileOf(path)).isDirectory());
  const { stdout: listed } = await execute("ls", ["-A", at]);
  expect(listed.trim().split("\n").length).toBe(1 + directories.length);
  expect((await execute("head", ["-c", "20", join(inMount(app), "bin/app")])).stdout).toBe(
    readFileSync(world.store.fileOf(join(app, "bin/app")), "latin1").slice(0, 20),
  );
  expect(proxy.requests.length).toBeLessThan(8);
  expect(proxy.bytesDown).toBeLessThan(BIG_BYTES / 10);
  const skipped = ["skip=3000000", "count=10", "bs=1", "status=none"];
  const { stdout: part } = await execute("dd", [`if=${stdout.trim()}`, ...skipped]);
  const big = readFileSync(world.store.fileOf(stdout.trim().replace(at, "/nix/store")), "latin1");
  expect(part).toBe(big.slice(3_000_000, 3_000_010));
  expect(proxy.bytesDown).toBeLessThan(BIG_BYTES / 3);
  for (const path of paths) {
    expect(await compareTrees(world.store.fileOf(path), inMount(path))).toEqual([]);
  }
  await umount(at);

  // Read to the last byte, it is proven: another mount, whoever it trusts, asks nobody.
  const again = await mount(store, proxy);
  proxy.clear();
  expect(await compareTrees(world.store.fileOf(app), app.replace("/nix/store", again))).toEqual([]);
  expect(proxy.requests).toEqual([]);
  await umount(again);
}, 180_000);

it("from a static export, too, parts of files are fetched, and no other files", async () => {
  const at = await mount(world.temporary("store"), exportProxy, "--trusted-root-key", rootKey);
  const data = paths.find((path) => path.endsWith("-data")) ?? "";
  const size = `${BIG_BYTES}c`;
  const found = await execute("find", [data.replace("/nix/store", at), "-size", size]);
  const big = found.stdout.trim();
  exportProxy.clear();
  const skipped = ["skip=3000000", "count=10", "bs=1", "status=none"];
  const { stdout: part } = await execute("dd", [`if=${big}`, ...skipped]);
  const original = world.store.fileOf(big.replace(at, "/nix/store"));
  expect(part).toBe(readFileSync(original, "latin1").slice(3_000_000, 3_000_010));
  const kinds = exportProxy.requests.map(({ path }) => path.split("/")[1]);
  expect(kinds.filter((kind) => kind === "outboard").length).toBe(1);
  expect(new Set(kinds)).toEqual(new Set(["outboard", "chunks"]));
  expect(exportProxy.bytesDown).toBeLessThan(BIG_BYTES / 3);
  await execute("cmp", [big, original]);
  await umount(at);
}, 180_000);
