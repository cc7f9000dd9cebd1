import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { NIX_CONFIG_FILES_MAX, readNixConfig } from "../src/nix/nix-config.ts";

const DEFAULTS = {
  substituters: ["https://cache.nixos.org/"],
  trustedSubstituters: [],
  trustedPublicKeys: ["cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="],
};

let root = "";
let count = 0;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "nix-config-"));
});
afterAll(() => rm(root, { recursive: true }));

/** An environment in which Nix reads only these files. */
async function environmentOf(files: { readonly [path: string]: string }) {
  const directory = join(root, `${count++}`);
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(directory, path)), { recursive: true });
    await writeFile(join(directory, path), text);
  }
  return {
    NIX_CONF_DIR: join(directory, "etc"),
    HOME: join(directory, "home"),
    XDG_CONFIG_DIRS: `${join(directory, "xdg1")}:${join(directory, "xdg2")}`,
  };
}

const substitutersOf = async (environment: NodeJS.ProcessEnv) =>
  (await readNixConfig(environment)).substituters;

describe("readNixConfig()", () => {
  it("has Nix's defaults where there is no file", async () => {
    const environment = await environmentOf({});
    const netrcFile = join(environment.NIX_CONF_DIR, "netrc");
    expect(await readNixConfig(environment)).toEqual({ ...DEFAULTS, netrcFile });
  });

  it("reads lists, comments, extra- and old names, and passes over the rest", async () => {
    const environment = await environmentOf({
      "etc/nix.conf": `# comment
substituters = https://a https://b  # more
extra-substituters = https://c https://a
trusted-binary-caches =\thttps://d\r
extra-trusted-public-keys = k:AAAA
netrc-file = /etc/my netrc
max-jobs = 4
sandbox =
`,
    });
    expect(await readNixConfig(environment)).toEqual({
      substituters: ["https://a", "https://b", "https://c"],
      trustedSubstituters: ["https://d"],
      trustedPublicKeys: [...DEFAULTS.trustedPublicKeys, "k:AAAA"],
      netrcFile: "/etc/my netrc",
    });
  });

  it("lets a plain setting drop what an extra- one before it added", async () => {
    const text = "extra-substituters = https://x\nsubstituters = https://a";
    const environment = await environmentOf({ "etc/nix.conf": text });
    expect(await substitutersOf(environment)).toEqual(["https://a"]);
    expect(await substitutersOf({ ...environment, NIX_CONFIG: "substituters =" })).toEqual([]);
  });

  it("reads the system's file, then the user's, the nearest last, then NIX_CONFIG", async () => {
    const add = (name: string) => `extra-substituters = ${name}\n`;
    const environment = await environmentOf({
      "etc/nix.conf": "substituters = system",
      "home/.config/nix/nix.conf": add("home"),
      "xdg1/nix/nix.conf": add("xdg1"),
      "xdg2/nix/nix.conf": add("xdg2"),
      "one.conf": add("one"),
      "two.conf": add("two"),
    });
    const directory = dirname(environment.HOME);
    expect(await substitutersOf({ ...environment, NIX_CONFIG: add("variable") })).toEqual([
      "system",
      "xdg2",
      "xdg1",
      "home",
      "variable",
    ]);
    const NIX_USER_CONF_FILES = `${join(directory, "one.conf")}:${join(directory, "two.conf")}`;
    expect(await substitutersOf({ ...environment, NIX_USER_CONF_FILES })).toEqual([
      "system",
      "two",
      "one",
    ]);
    expect(await substitutersOf({ ...environment, NIX_USER_CONF_FILES: "" })).toEqual(["system"]);
  });

  it("reads what is included in its place, relative to the file that includes it", async () => {
    const environment = await environmentOf({
      "etc/nix.conf": "include sub/a.conf\n!include missing.conf\nextra-substituters = last",
      "etc/sub/a.conf": "substituters = a\n!include b.conf",
      "etc/sub/b.conf": "extra-substituters = b",
    });
    expect(await substitutersOf(environment)).toEqual(["a", "b", "last"]);
  });

  it.each([
    ["\ninclude missing.conf", /nix\.conf:2: missing\.conf is not there/],
    ["include", /nix\.conf:1: want include PATH/],
    ["include a b", /nix\.conf:1: want include PATH/],
    ["substituters https://a", /nix\.conf:1: want NAME = VALUE/],
    ["substituters=https://a", /nix\.conf:1: want NAME = VALUE/],
  ])("refuses %j", async (text, message) => {
    const environment = await environmentOf({ "etc/nix.conf": text });
    await expect(readNixConfig(environment)).rejects.toMatchObject({
      code: "INVALID",
      message: expect.stringMatching(message),
    });
  });

  it("ends when a file includes itself", async () => {
    const environment = await environmentOf({ "etc/nix.conf": "include nix.conf" });
    await expect(readNixConfig(environment)).rejects.toMatchObject({
      code: "EXHAUSTED",
      message: expect.stringContaining(`${NIX_CONFIG_FILES_MAX} files`),
    });
  });

  it("says which file cannot be read", async () => {
    const environment = await environmentOf({ "etc/nix.conf/x": "" });
    await expect(readNixConfig(environment)).rejects.toMatchObject({ code: "DENIED" });
  });
});
