import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, it } from "vitest";
import { type CastoreProcess, castoreProgram, startCastore } from "./support/castore-process.ts";
import { compareTrees } from "./support/compare-trees.ts";
import { createNixWorld, type NixWorld } from "./support/nix-world.ts";

const execute = promisify(execFile);
const BIG_BYTES = 10_000_000;
const KEPT_BYTES = 2_000_000;

let world: NixWorld;
let app: string;
let paths: readonly string[];
let serve: CastoreProcess;
let startServe: (port: string) => Promise<CastoreProcess>;
let at: string;
let store: string;
let registration: string;
let mounted: ChildProcess;
let log = "";

beforeAll(async () => {
  world = await createNixWorld();
  app = await world.build("app", { bigBytes: `${BIG_BYTES}` });
  paths = (await world.pathInfos(world.store.uri, [app])).map(({ path }) => path);
  const keyFile = await world.createKey("roots-1");
  const keys = ["--root-signing-key", keyFile, "--signing-key", world.secretKeyFile];
  const served = ["--store", world.temporary("serve"), ...keys];
  startServe = (port) => startCastore("serve", ["--listen", `127.0.0.1:${port}`, ...served]);
  serve = await startServe("0");
  const to = `${serve.url}?compression=none`;
  await world.run("nix", ["copy", "--store", world.store.uri, "--to", to, app]);
  at = world.temporary("mnt");
  mkdirSync(at);
  const list = world.temporary("list");
  writeFileSync(list, `${app}\n`);
  store = world.temporary("store");
  registration = world.temporary("registration");
  mounted = spawn(
    process.execPath,
    [
      ...[castoreProgram(), "mount", "--store", store, "--upstream", serve.url, "--patient"],
      ...["--trusted-public-key", world.publicKey],
      ...["--trusted-root-key", await world.publicKeyOf(keyFile)],
      ...["--contents-max-size", `${KEPT_BYTES}`, "--kernel", "--paths-from", list],
      ...["--registration", registration, at],
    ],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  mounted.stderr?.setEncoding("utf8").on("data", (text: string) => {
    log += text;
  });
  if (mounted.stdout !== null) await once(mounted.stdout, "data");
});
afterAll(async () => {
  // Not by SIGTERM: a mount namespace that somebody made meanwhile may hold the mount.
  await execute("umount", ["--lazy", at]);
  mounted.kill("SIGKILL");
  await once(mounted, "exit");
  for (const part of [serve, world]) await part[Symbol.asyncDispose]();
});

const inMount = (path: string) => path.replace("/nix/store", at);

it("writes what the real Nix takes as a registration of the closure", async () => {
  const into = world.createStore();
  const script = `nix-store --store '${into.uri}' --load-db <${registration}`;
  await world.run("sh", ["-c", script]);
  const known = await world.run("nix-store", ["--store", into.uri, "-qR", app]);
  expect(known.stdout.trim().split("\n").sort()).toEqual([...paths].sort());
});

it("waits for a server that is away, and goes on when it is back", async () => {
  const port = new URL(serve.url).port;
  await serve.kill();
  const reading = execute("cat", [inMount(`${app}/share/inputs`)]);
  await expect.poll(() => log, { timeout: 50_000 }).toContain("tried again until it comes");
  serve = await startServe(port);
  const wanted = readFileSync(world.store.fileOf(`${app}/share/inputs`), "utf8");
  expect((await reading).stdout).toBe(wanted);
});

it("shows all paths as they are", async () => {
  for (const path of paths) {
    expect(await compareTrees(world.store.fileOf(path), inMount(path))).toEqual([]);
  }
});
