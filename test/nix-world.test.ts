import { chmodSync, mkdirSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { compareTrees, describeTree } from "./support/compare-trees.ts";
import { createNixWorld, type NixWorld, readNarInfo } from "./support/nix-world.ts";
import { StandInCache } from "./support/stand-in-cache.ts";

const small = { bigBytes: "2000000" };

describe("the real Nix in a throw-away world", () => {
  let world: NixWorld;
  let app: string;
  beforeAll(async () => {
    world = await createNixWorld();
    app = await world.build("app", small);
  });
  afterAll(() => world[Symbol.asyncDispose]());

  it("builds a closure with everything that a store path may hold", async () => {
    const infos = await world.pathInfos(world.store.uri, [app]);
    expect(infos.map(({ path }) => path.slice(44))).toEqual(
      expect.arrayContaining(["app", "data", "lib", "odd-1.0+b?=x", "file.conf", "text", "link"]),
    );
    expect(infos).toHaveLength(11);
    const tree = [...(await describeTree(world.store.fileOf(app))).values()];
    expect(tree.some((entry) => entry.startsWith("file 555 mtime 1 "))).toBe(true);
    const odd = infos.find(({ path }) => path.includes("odd"))?.path ?? "";
    const names = [...(await describeTree(world.store.fileOf(odd))).keys()];
    expect(names).toEqual(
      expect.arrayContaining(["new\nline", "\xff\x01\x80", "\xc3\xa9", "-dash"]),
    );
  });

  it("builds the same store paths and contents every time", async () => {
    await using other = await createNixWorld();
    expect(await other.build("app", small)).toBe(app);
    const strip = (infos: Awaited<ReturnType<typeof world.pathInfos>>) =>
      infos.map(({ path, narHash, narSize }) => ({ path, narHash, narSize }));
    expect(strip(await other.pathInfos(other.store.uri, [app]))).toEqual(
      strip(await world.pathInfos(world.store.uri, [app])),
    );
  });

  it("version 2 differs where the closure says that it does", async () => {
    const byName = async (root: string) =>
      new Map((await world.pathInfos(world.store.uri, [root])).map((i) => [i.path.slice(44), i]));
    const one = await byName(app);
    const two = await byName(await world.build("app", { ...small, version: "2" }));
    expect([...two.keys()].sort()).toEqual([...one.keys()].sort());
    const renamed = [...one.keys()].filter((name) => one.get(name)?.path !== two.get(name)?.path);
    expect(renamed.sort()).toEqual(["app", "data", "file.conf", "lib", "link", "many", "relinked"]);
    expect(two.get("many")?.narHash).toBe(one.get("many")?.narHash);
    const changed = async (name: string) => {
      const trees = [one, two].map((infos) => world.store.fileOf(infos.get(name)?.path ?? ""));
      const lines = await compareTrees(trees[0] ?? "", trees[1] ?? "");
      return lines.map((line) => line.split(":")[0]);
    };
    expect(await changed("data")).toEqual(["share/data/big", "share/data/version"]);
    expect(await changed("lib")).toEqual(["include/absolute", "include/foo.h"]);
    expect(await changed("relinked")).toEqual(["linked"]);
  });

  it.each(["none", "xz", "zstd"] as const)(
    "substitutes from a plain %s cache, and every path compares equal",
    async (compression) => {
      const cache = await world.copyToCache([app], compression);
      expect(readNarInfo(cache, app).get("Compression")).toBe(compression);
      await using server = await StandInCache.start({ directory: cache });
      const store = await world.substitute([app], { urls: [server.origin] });
      const infos = await world.pathInfos(store.uri, [app]);
      expect(infos).toHaveLength(11);
      for (const { path } of infos) {
        expect(await compareTrees(world.store.fileOf(path), store.fileOf(path))).toEqual([]);
      }
      await world.run("nix-store", ["--store", store.uri, "--verify-path", app]);
      expect(server.seen("narinfo")).toHaveLength(11);
      expect(server.seen("nar")).toHaveLength(11);
    },
  );

  it("substitutes nothing that no trusted key signed", async () => {
    const cache = await world.copyToCache([app], "none");
    await using server = await StandInCache.start({ directory: cache });
    const trustedKeys = ["other-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="];
    await expect(world.substitute([app], { urls: [server.origin], trustedKeys })).rejects.toThrow();
  });
});

describe("compareTrees()", () => {
  it("sees a changed byte, mode, time, link and name", async () => {
    await using world = await createNixWorld();
    const make = (change: (directory: string) => void) => {
      const directory = world.temporary("tree");
      mkdirSync(join(directory, "d"), { recursive: true });
      writeFileSync(join(directory, "d/f"), "abc");
      symlinkSync("f", join(directory, "d/l"));
      change(directory);
      for (const path of ["d/f", "d", ""]) utimesSync(join(directory, path), 1, 1);
      return directory;
    };
    const same = make(() => {});
    expect(
      (
        await compareTrees(
          same,
          make(() => {}),
        )
      ).filter((l) => !l.startsWith("d/l")),
    ).toEqual([]);
    const seen = async (change: (directory: string) => void) =>
      (await compareTrees(same, make(change))).map((line) => line.split(":")[0]);
    expect(await seen((d) => writeFileSync(join(d, "d/f"), "abd"))).toContain("d/f");
    expect(await seen((d) => chmodSync(join(d, "d/f"), 0o755))).toContain("d/f");
    expect(await seen((d) => symlinkSync("g", join(d, "m")))).toContain("m");
    expect(await seen((d) => writeFileSync(join(d, "d/\xe9"), ""))).toContain("d/\xc3\xa9");
  });
});
