import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { runCastore, startCastore } from "../../../test/support/castore-process.ts";
import { FUZZ_RUNS, mutated } from "../../../test/support/mutated-bytes.ts";
import { applyConfigFile } from "../src/config-file.ts";
import { serveCommand } from "../src/serve-command.ts";
import { putPathInfo } from "./put-path-info.ts";

const directory = mkdtempSync(join(tmpdir(), "castore-config-"));
const config = join(directory, "castore.toml");
afterAll(() => rmSync(directory, { recursive: true, force: true }));

describe("serve --config composes near and far", () => {
  /** Imports a file into the object store `name`, as the store path of 32 times `digit`. */
  async function fill(name: string, digit: string): Promise<string> {
    const objects = join(directory, name);
    mkdirSync(objects);
    const file = join(directory, `${name}.txt`);
    writeFileSync(file, `contents of ${name}\n`);
    const url = `file://${objects}`;
    const { stdout } = await runCastore(["import", "--store", url, file]);
    await putPathInfo(url, `/nix/store/${digit.repeat(32)}-${name}`, JSON.parse(stdout));
    return url;
  }

  async function readNar(server: string, digit: string): Promise<string> {
    const narInfo = await (await fetch(`${server}/${digit.repeat(32)}.narinfo`)).text();
    return await (await fetch(`${server}/${/^URL: (.*)$/m.exec(narInfo)?.[1]}`)).text();
  }

  test("of several far ones the first that has it serves it, and near keeps it", async () => {
    const far = [await fill("one", "1"), await fill("two", "2")];
    const near = join(directory, "near");
    writeFileSync(config, `[serve]\nstore = "${near}"\nfar = ${JSON.stringify(far)}\n`);
    await using server = await startCastore("serve", ["--config", config]);
    expect(await readNar(server.url, "1")).toContain("contents of one\n");
    expect(await readNar(server.url, "2")).toContain("contents of two\n");
    // A path info stays with near only once its contents are there, too.
    expect(await readNar(server.url, "2")).toContain("contents of two\n");
    for (const name of ["one", "two"]) rmSync(join(directory, name), { recursive: true });
    expect(await readNar(server.url, "2")).toContain("contents of two\n");
    await server.stop();
  });

  test("the command line comes before the file, and that before $CASTORE_STORE", async () => {
    writeFileSync(config, '[serve]\nlisten = "127.0.0.1:0"\nstore = "memory:"\nfar = "memory:"\n');
    const env = { CASTORE_STORE: config };
    const chosen = ["serve", "--config", config, "--listen", "127.0.0.1:0"];
    await using server = await startCastore("serve", chosen.slice(1), { env });
    expect(server.url).toMatch(/127\.0\.0\.1/);
    await server.stop();
    const overruled = await runCastore([...chosen, "--store", join(config, "below")]);
    expect(overruled.code).toBe(1);
    expect(overruled.stderr).toContain(`${config}/below`);
  });
});

describe("serve --config refuses, naming the file and", () => {
  test.each([
    ["a key that is no option", '[serve]\nnear = "memory:"', /\[serve\] has no option "near"/],
    ["a section of no command", '[srve]\nstore = "memory:"', /"srve" is none of the sections/],
    ["a key outside of sections", 'store = "memory:"', /"store" is none of the sections/],
    ["a section that is none", 'serve = "memory:"', /\[serve\] must be a section/],
    ["text that wants true or false", '[serve]\nupgrade = "no"', /upgrade wants true or false/],
    ["true that wants text", "[serve]\nstore = true", /store wants text, a number or a list/],
    ["a list in a list", '[serve]\nfar = [["memory:"]]', /far wants text/],
    ["a date", "[serve]\nfar = 1979-05-27", /far wants text/],
    ["a list for one value", '[serve]\nstore = ["a", "b"]', /store takes one value, not a list/],
    ["a bad URL", '[serve]\nfar = ["memory:", "s3:bucket"]', /far s3:bucket: .*want s3:\/\/…/],
    ["a bad URL without what it hides", '[serve]\nfar = "x:?key=hush"', /far x:\?…: .*known\n$/],
    ["a bad address", "[serve]\nlisten = 80", /listen 80: want HOST:PORT/],
    [
      "a key that is there twice",
      '[serve]\nfar = "a:"\nfar = "b:"',
      /: line 3, far: .*redefine.*\n$/,
    ],
    ["what is not TOML", "[serve]\nstore = hush", /: line 2, store: Invalid TOML/],
  ])("%s", async (_, text, message) => {
    writeFileSync(config, `${text}\n`);
    const { code, stderr } = await runCastore(["serve", "--config", config]);
    expect(stderr.startsWith(`castore: ${config}: `)).toBe(true);
    expect(stderr).toMatch(message);
    expect(stderr).not.toContain("hush");
    expect(code).toBe(1);
  });

  test("a file that is not there", async () => {
    const { code, stderr } = await runCastore(["serve", "--config", join(directory, "none.toml")]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^castore: .*none\.toml: cannot be read: .*ENOENT/);
  });
});

describe("text near to a file that is right", () => {
  const FILE = `# what the bridge says does not matter to serve
[bridge]
upstream = ["https://cache.nixos.org"]

[serve]
listen = "127.0.0.1:9001"
store = '/var/lib/castore'
far = [
  "grpc+unix:/run/snix.sock",
  "memory:", # twice
]
store-max-size = "10G"
upgrade = false
`;

  /** Which values each option may have after the file was taken. */
  function expectPossible(command: Command): void {
    for (const option of command.options) {
      const name = option.attributeName();
      if (command.getOptionValueSource(name) !== "config") continue;
      const value: unknown = command.getOptionValue(name);
      if (option.negate) expect(typeof value).toBe("boolean");
      if (name === "far") expect(value).toEqual(expect.arrayContaining([expect.any(String)]));
      if (name === "store") expect(value).toEqual(expect.any(String));
      if (name === "storeMaxSize") expect(Number.isSafeInteger(value)).toBe(true);
    }
  }

  test("is taken, or refused as INVALID with the file's name", () => {
    writeFileSync(config, FILE);
    const taken = serveCommand();
    applyConfigFile(taken, config);
    expect(taken.opts()).toMatchObject({
      listen: { host: "127.0.0.1", port: 9001 },
      store: "/var/lib/castore",
      far: ["grpc+unix:/run/snix.sock", "memory:"],
      storeMaxSize: 10 * 2 ** 30,
      upgrade: false,
    });
    let refused = 0;
    const near = mutated(fc.constant(Buffer.from(FILE)));
    const run = fc.property(near, (bytes) => {
      writeFileSync(config, bytes);
      const command = serveCommand();
      try {
        applyConfigFile(command, config);
      } catch (error) {
        refused++;
        expect(error).toMatchObject({ name: "CastoreError", code: "INVALID" });
        expect(String(error)).toContain(`${config}: `);
        return;
      }
      expectPossible(command);
    });
    fc.assert(run, { numRuns: 4 * FUZZ_RUNS });
    expect(refused).toBeGreaterThan(0);
  });
});
