import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { compareTrees } from "./support/compare-trees.ts";
import { createNixWorld, type NixWorld } from "./support/nix-world.ts";
import { repositoryRoot } from "./support/repository-root.ts";

const execute = promisify(execFile);
const castore = join(repositoryRoot(), "packages/cli/bin/castore.js");

describe("castore mount", () => {
  let world: NixWorld;
  let app: string;
  let paths: readonly string[];
  let cache: string;
  let mountpoint: string;
  let args: readonly string[];

  beforeAll(async () => {
    world = await createNixWorld();
    app = await world.build("app", { bigBytes: "2000000" });
    paths = (await world.pathInfos(world.store.uri, [app])).map(({ path }) => path);
    cache = await world.copyToCache([app], "xz");
    mountpoint = world.temporary("mnt");
    await mkdir(mountpoint);
    const store = world.temporary("castore");
    const upstream = ["--upstream", `file://${cache}`, "--trusted-public-key", world.publicKey];
    args = ["mount", "--store", store, ...upstream, "--list-root", mountpoint];
  });
  afterAll(() => world[Symbol.asyncDispose]());

  async function start(more: readonly string[] = []): Promise<ChildProcess> {
    const child = spawn(process.execPath, [castore, ...args, ...more], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(child.stdout, "data");
    return child;
  }

  const at = (path: string) => path.replace("/nix/store", mountpoint);
  const isMounted = async () =>
    (await readFile("/proc/mounts", "utf8")).includes(` ${mountpoint} fuse.castore `);
  const names = async () => (await execute("ls", ["-A", mountpoint])).stdout.trim().split("\n");

  it("shows each path of an upstream as it is, fetched when it is looked at", async () => {
    const child = await start();
    expect(await names()).toEqual([".links"]);
    await expect(execute("stat", [at(`${app}x`)])).rejects.toThrow(/No such file/);
    await expect(execute("stat", [`${mountpoint}/no-store-path`])).rejects.toThrow(/No such/);
    expect(await names()).toEqual([".links"]);
    for (const path of paths) {
      expect(await compareTrees(world.store.fileOf(path), at(path))).toEqual([]);
    }
    child.kill("SIGTERM");
    expect(await once(child, "exit")).toEqual([0, null]);
    expect(await isMounted()).toBe(false);
  });

  it("shows what the local store holds without any upstream", async () => {
    await execute("mv", [cache, `${cache}.away`]);
    const child = await start(["--passthrough"]);
    expect((await names()).length).toBe(1 + paths.length);
    expect(await compareTrees(world.store.fileOf(app), at(app))).toEqual([]);
    await execute(process.execPath, [castore, "umount", mountpoint]);
    expect(await once(child, "exit")).toEqual([0, null]);
    await execute("mv", [`${cache}.away`, cache]);
  });

  it("keeps what was looked at from being collected", async () => {
    const child = await start();
    await execute("ls", [at(app)]);
    const store = args[2] ?? "";
    const run = (...command: string[]) => execute(process.execPath, [castore, ...command]);
    await run("gc", "--store", store);
    expect(await compareTrees(world.store.fileOf(app), at(app))).toEqual([]);
    child.kill("SIGINT");
    await once(child, "exit");
  });

  it("with --passthrough goes on when its server is killed while files are open", async () => {
    const child = await start(["--passthrough"]);
    const data = paths.find((path) => path.endsWith("-data")) ?? "";
    const big = join(at(data), "share/data/big");
    const sum = "sha256sum | cut -c 1-64";
    const held = spawn("bash", [
      "-c",
      `exec 3<'${big}'; cat /dev/fd/3 | ${sum}; read; cat <&3 | ${sum}`,
    ]);
    const [first] = await once(held.stdout, "data");
    const children = `/proc/${child.pid}/task/${child.pid}/children`;
    const server = Number((await readFile(children, "utf8")).trim().split(" ")[0]);
    process.kill(server, "SIGKILL");
    // Another way of reading it, or another file behind it, would be an error for both.
    expect((await execute("bash", ["-c", `cat '${big}' | ${sum}`])).stdout).toBe(String(first));
    const again = once(held.stdout, "data");
    held.stdin.end("\n");
    expect(String((await again)[0])).toBe(String(first));
    await execute(process.execPath, [castore, "umount", mountpoint]);
    expect(await once(child, "exit")).toEqual([0, null]);
  });

  it("survives a full disk, and goes on when there is room again", async () => {
    const disk = world.temporary("disk");
    await mkdir(disk);
    await execute("mount", ["-t", "tmpfs", "-o", "size=18m", "tmpfs", disk]);
    const [command = "", , , ...rest] = args;
    const options = [castore, command, "--store", join(disk, "store"), ...rest];
    const child = spawn(process.execPath, options, { stdio: ["ignore", "pipe", "ignore"] });
    await once(child.stdout, "data");
    const data = paths.find((path) => path.endsWith("-data")) ?? "";
    const read = () => execute("sha256sum", [join(at(data), "share/data/big")]);
    await expect(read()).rejects.toThrow(/No space left|Input\/output error/);
    expect(await names()).toContain(".links");
    await execute("mount", ["-o", "remount,size=100m", disk]);
    const wanted = await execute("sha256sum", [join(world.store.fileOf(data), "share/data/big")]);
    expect((await read()).stdout.slice(0, 64)).toBe(wanted.stdout.slice(0, 64));
    child.kill("SIGTERM");
    await once(child, "exit");
    const refused = execute(process.execPath, [castore, "umount", disk]);
    await expect(refused).rejects.toThrow(`umount ${disk}: castore mounted nothing there`);
    await execute("umount", [disk]);
  });

  it("in the background returns once it is mounted, and ends by umount", async () => {
    await execute(process.execPath, [castore, ...args, "--background"]);
    expect(await isMounted()).toBe(true);
    expect(await names()).toContain(".links");
    const link = world.temporary("link");
    await symlink(dirname(mountpoint), link);
    const linked = join(link, basename(mountpoint));
    await execute(process.execPath, [castore, "umount", linked]);
    expect(await isMounted()).toBe(false);
    const again = execute(process.execPath, [castore, "umount", mountpoint]);
    await expect(again).rejects.toThrow(`umount ${mountpoint}: castore mounted nothing there`);
  });

  it("with --kernel mounts a closure of which no stat asks this process", async () => {
    const list = world.temporary("list");
    await writeFile(list, `${app}\n`);
    const child = await start(["--kernel", "--paths-from", list]);
    expect((await names()).length).toBe(1 + paths.length);
    for (const path of paths) {
      expect(await compareTrees(world.store.fileOf(path), at(path))).toEqual([]);
    }
    child.kill("SIGTERM");
    expect(await once(child, "exit")).toEqual([0, null]);
    expect((await readFile("/proc/mounts", "utf8")).includes(mountpoint)).toBe(false);
  });

  it("refuses a mountpoint that is not empty", async () => {
    const refused = execute(process.execPath, [castore, ...args.slice(0, -1), "/usr"]);
    await expect(refused).rejects.toMatchObject({ code: 1 });
  });
});
