import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createNixWorld, type NixWorld } from "./support/nix-world.ts";
import { repositoryRoot } from "./support/repository-root.ts";

const execute = promisify(execFile);
const castore = join(repositoryRoot(), "packages/cli/bin/castore.js");

const NIX_CONF = `build-users-group =
sandbox = false
substituters =
experimental-features = nix-command
`;

describe("Nix on a mount, with a writable layer above", () => {
  let world: NixWorld;
  let app: string;
  let paths: readonly string[];
  let base: string;
  let mounted: ChildProcess;

  beforeAll(async () => {
    world = await createNixWorld();
    app = await world.build("app", { bigBytes: "2000000" });
    paths = (await world.pathInfos(world.store.uri, [app])).map(({ path }) => path);
    const cache = await world.copyToCache([app], "zstd");
    base = world.temporary("on-mount");
    await mkdir("/nix/store", { recursive: true });
    for (const name of ["mnt", "upper", "work", "conf", "state/gcroots"]) {
      await mkdir(join(base, name), { recursive: true });
    }
    await writeFile(join(base, "conf/nix.conf"), NIX_CONF);
    await writeFile(join(base, "paths"), `${app}\n`);
    const from = ["--upstream", `file://${cache}`, "--trusted-public-key", world.publicKey];
    const nix = ["--nix-db", join(base, "state"), "--paths-from", join(base, "paths")];
    const options = ["--store", join(base, "castore"), ...from, ...nix];
    const args = [castore, "mount", ...options, join(base, "mnt")];
    mounted = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
    await once(mounted.stdout ?? mounted, "data");
  });
  afterAll(async () => {
    if (mounted.kill("SIGTERM")) await once(mounted, "exit");
    await world[Symbol.asyncDispose]();
  });

  /** Runs a script where /nix/store is the mount, in a mount namespace of its own. */
  async function inside(script: string): Promise<string> {
    const layers = "lowerdir=$BASE/mnt,upperdir=$BASE/upper,workdir=$BASE/work";
    const whole = `set -eu; mount -t overlay overlay -o ${layers} /nix/store\n${script}`;
    const env = {
      PATH: process.env.PATH ?? "/usr/bin:/bin",
      BASE: base,
      APP: app,
      HOME: join(base, "home"),
      NIX_CONF_DIR: join(base, "conf"),
      NIX_STATE_DIR: join(base, "state"),
      NIX_LOCALSTATE_DIR: join(base, "state"),
      NIX_REMOTE: "local",
    };
    const unshared = ["-m", "--propagation", "private", "bash", "-c", whole];
    return (await execute("unshare", unshared, { env, cwd: base })).stdout;
  }

  it("knows the closure and finds every path as it was registered", async () => {
    const requisites = (await inside("nix-store -q --requisites $APP")).trim().split("\n");
    expect(requisites.sort()).toEqual([...paths].sort());
    await inside("nix-store --verify-path $(nix-store -q --requisites $APP)");
  });

  it("runs programs from it", async () => {
    expect(await inside("$APP/bin/app")).toBe("app 1\n");
  });

  it("renders each path as the original", async () => {
    const script =
      "for p in $(nix-store -q --requisites $APP | sort); do nix-store --dump $p | sha256sum; done";
    const sums = (await inside(script)).trim().split("\n");
    const wanted = [];
    for (const path of paths) {
      const file = world.store.fileOf(path);
      const { stdout } = await execute("bash", ["-c", `nix-store --dump '${file}' | sha256sum`]);
      wanted.push(stdout.trim());
    }
    expect(sums).toEqual(wanted);
  });

  it("builds on top of a mounted path", async () => {
    const expression = `derivation {
      name = "on-top"; system = builtins.currentSystem; builder = "/bin/sh";
      args = [ "-c" "echo \${builtins.storePath "${app}"} > $out" ];
    }`;
    await writeFile(join(base, "on-top.nix"), expression);
    const built = await inside("out=$(nix-build --no-out-link $BASE/on-top.nix); cat $out");
    expect(built).toBe(`${app}\n`);
  });

  it("keeps what is mounted when it collects garbage", async () => {
    await inside("nix-store --gc; nix-store --verify-path $APP");
    const requisites = (await inside("nix-store -q --requisites $APP")).trim().split("\n");
    expect(requisites.length).toBe(paths.length);
  });

  it("knows a path that was looked at, and forgets all once it is no longer mounted", async () => {
    const ours = async () =>
      (await readdir(join(base, "state/gcroots"))).filter((name) => name.startsWith("castore-"));
    const [name = "", ...others] = await ours();
    expect(others).toEqual([]);
    const roots = join(base, "state/gcroots", name);
    expect(await readdir(roots)).toContain(app.slice("/nix/store/".length));
    const data = paths.find((path) => path.endsWith("-data")) ?? "";
    await execute("ls", [join(base, "mnt", data.slice("/nix/store/".length))]);
    await expect.poll(() => readdir(roots)).toContain(data.slice("/nix/store/".length));
    mounted.kill("SIGTERM");
    await once(mounted, "exit");
    expect(await ours()).toEqual([]);
  });
});
