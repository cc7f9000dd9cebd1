import { execFileSync, spawn } from "node:child_process";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const CASTORE = fileURLToPath(new URL("../bin/castore.js", import.meta.url));
const directory = mkdtempSync(join(tmpdir(), "castore-cli-"));
const tree = join(directory, "tree");
const HELLO = "af8f3b90a2bbc7c8d4cf2bd2a9c5d1bd";

afterAll(() => rmSync(directory, { recursive: true, force: true }));

interface Result {
  readonly code: number | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

/** Runs the command on a store of its own, with `input` on stdin. */
async function castore(args: readonly string[], input: Uint8Array = Buffer.alloc(0)) {
  const env = { ...process.env, CASTORE_STORE: join(directory, "store") };
  const child = spawn(process.execPath, [CASTORE, ...args], { env });
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  child.stdout.on("data", (piece: Buffer) => out.push(piece));
  child.stderr.on("data", (piece: Buffer) => err.push(piece));
  child.stdin.end(input);
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  const result: Result = {
    code,
    stdout: Buffer.concat(out),
    stderr: Buffer.concat(err).toString(),
  };
  return result;
}

interface Imported {
  readonly entry: string;
  readonly narHash: string;
  readonly node: unknown;
}

async function importTree(): Promise<Imported> {
  const { stdout, code, stderr } = await castore(["import", tree]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return JSON.parse(stdout.toString()) as Imported;
}

beforeAll(() => {
  mkdirSync(join(tree, "bin"), { recursive: true });
  writeFileSync(join(tree, "bin", "run"), "#!/bin/sh\n");
  chmodSync(join(tree, "bin", "run"), 0o755);
  writeFileSync(join(tree, "hello"), HELLO);
  symlinkSync("bin/run", join(tree, "link"));
});

describe("the tree commands", () => {
  test("import prints one JSON line as documented", async () => {
    const imported = await importTree();
    expect(Object.keys(imported)).toEqual(["path", "entry", "node", "narHash", "narSize"]);
    expect(imported.node).toMatchObject({ type: "directory", size: 8 });
    expect(imported.narHash).toMatch(/^sha256:[0-9a-z]{52}$/);
  });

  test("cat and render write all of a large file into a pipe, or as much as is read", async () => {
    const file = join(directory, "large");
    writeFileSync(file, Buffer.alloc(3_000_001, "0123456789abcdef"));
    const { stdout } = await castore(["import", file]);
    const { entry } = JSON.parse(stdout.toString()) as Imported;
    // Node gives a child sockets, and a shell gives it pipes.
    const piped = (script: string): string => {
      const env = { ...process.env, CASTORE_STORE: join(directory, "store") };
      const bash = ["-e", "-o", "pipefail", "-c", script, process.execPath, CASTORE, entry];
      return execFileSync("bash", bash, { env }).toString();
    };
    expect(piped(`"$0" "$1" cat "$2" | cmp - ${file} && echo same`)).toBe("same\n");
    expect(piped(`"$0" "$1" render "$2" | wc -c`).trim()).toBe(`${3_000_001 + 7 + 112}`);
    expect(piped(`"$0" "$1" render "$2" | head -c 21 | tail -c 13`)).toBe("nix-archive-1");
  });

  test("ls, cat and render read what import stored, and import-nar reads that back", async () => {
    const { entry, narHash, node } = await importTree();
    const listing = (await castore(["ls", entry])).stdout.toString();
    expect(listing.split("\n").map((line) => line.trim().split(/ +/).slice(2).join(" "))).toEqual([
      "bin",
      "hello",
      "link -> bin/run",
      "",
    ]);
    expect((await castore(["cat", `${entry}/hello`])).stdout.toString()).toBe(HELLO);
    const nar = (await castore(["render", entry])).stdout;
    const again = JSON.parse((await castore(["import-nar", "-"], nar)).stdout.toString());
    expect(again).toMatchObject({ entry, narHash, node });
  });

  test("ls --json prints one object for each entry", async () => {
    const { entry } = await importTree();
    const lines = (await castore(["ls", "--json", `${entry}/bin`])).stdout.toString().trim();
    expect(JSON.parse(lines)).toMatchObject({ name: "run", type: "file", executable: true });
  });

  test("what is not there is named, and fails with exit code 1", async () => {
    const { entry } = await importTree();
    const { code, stderr } = await castore(["cat", `${entry}/nothing`]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^castore: .*no "nothing" there\n$/);
  });

  test("a file that is not there, and an address that is none, are told in one line", async () => {
    const opened = await castore(["import-nar", "/none"]);
    expect(opened.stderr).toBe("castore: ENOENT: no such file or directory, open '/none'\n");
    const listening = await castore(["serve", "--listen", "300.1.1.1:0"]);
    expect(listening.stderr).toMatch(/^castore: getaddrinfo \w+ 300\.1\.1\.1\n$/);
    expect([opened.code, listening.code]).toEqual([1, 1]);
  });

  test("a truncated NAR is refused and leaves nothing", async () => {
    const { entry } = await importTree();
    const nar = (await castore(["render", entry])).stdout;
    const { code, stderr } = await castore(["import-nar", "-"], nar.subarray(0, -16));
    expect(code).toBe(1);
    expect(stderr).toMatch(/^castore: /);
  });
});

describe("roots and garbage collection", () => {
  test("gc deletes what is imported and not kept, and a root keeps it", async () => {
    const { entry } = await importTree();
    expect((await castore(["root", "add", "--name", "mine", entry])).code).toBe(0);
    await castore(["gc"]);
    expect((await castore(["cat", `${entry}/hello`])).stdout.toString()).toBe(HELLO);
    expect((await castore(["root", "list"])).stdout.toString()).toBe("mine  1 kept\n");
    expect((await castore(["root", "rm", "mine"])).code).toBe(0);
    const report = JSON.parse((await castore(["gc", "--json"])).stdout.toString());
    expect(report.blobsDeleted).toBeGreaterThanOrEqual(2);
    expect((await castore(["cat", `${entry}/hello`])).code).toBe(1);
  });

  test("stats counts what is there", async () => {
    await importTree();
    const stats = JSON.parse((await castore(["stats", "--json"])).stdout.toString());
    expect(stats).toMatchObject({ paths: 0, blobs: 2, directories: 2 });
  });
});

describe("what the store is checked for", () => {
  test("fsck finds a flipped byte, fails, and moves it away with --repair", async () => {
    const big = join(directory, "big");
    writeFileSync(big, Buffer.alloc(100_000, "big "));
    const store = join(directory, "checked");
    const imported = await castore(["import", "--store", store, big]);
    const { node } = JSON.parse(imported.stdout.toString());
    expect((await castore(["fsck", "--store", store])).code).toBe(0);
    const file = join(store, "blobs", node.digest.slice(0, 2), node.digest.slice(2));
    chmodSync(file, 0o644);
    writeFileSync(file, Buffer.alloc(100_000, "bug "));
    const found = await castore(["fsck", "--store", store]);
    expect(found.code).toBe(1);
    expect(found.stdout.toString()).toContain(`blob ${node.digest}`);
    expect((await castore(["fsck", "--repair", "--store", store])).code).toBe(0);
    expect((await castore(["fsck", "--store", store])).code).toBe(0);
  });

  test("fsck names a damaged page of the index, which LMDB would trust", async () => {
    const store = join(directory, "truncated");
    await castore(["import", "--store", store, tree]);
    truncateSync(join(store, "index", "data.mdb"), 3 * 4096);
    const { code, stderr } = await castore(["fsck", "--store", store]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^castore: .*truncated: index page \d+: .* beyond the end/);
    expect(stderr).toMatch(/move the store away/);
  });

  test("seed notes files in place and passes over them the second time", async () => {
    const seeds = join(directory, "seeds");
    mkdirSync(join(seeds, "path"), { recursive: true });
    writeFileSync(join(seeds, "path", "file"), Buffer.alloc(50_000, "seed"));
    const first = JSON.parse((await castore(["seed", "--json", seeds])).stdout.toString());
    expect(first).toMatchObject({ filesIndexed: 1, bytesRead: 50_000, failures: 0 });
    const second = JSON.parse((await castore(["seed", "--json", seeds])).stdout.toString());
    expect(second).toMatchObject({ filesIndexed: 0, entriesSkipped: 1 });
  });
});

describe("usage", () => {
  test.each([
    [["frobnicate"]],
    [["import"]],
    [["bridge", "--listen", "nowhere"]],
    [["bridge", "--upgrade", "maybe"]],
    [["gc", "--max-size", "much"]],
    [["root", "add", "--ttl", "soon", "x"]],
  ])("%j exits with 2 and says what is wrong", async (args) => {
    const { code, stderr } = await castore(args);
    expect(code).toBe(2);
    expect(stderr).toMatch(/^error: /);
  });

  test("--help names every command and exits with 0", async () => {
    const { code, stdout } = await castore(["--help"]);
    expect(code).toBe(0);
    for (const name of ["bridge", "serve", "substitute", "import", "render", "gc", "root"]) {
      expect(stdout.toString()).toContain(name);
    }
  });

  test("a config file with an unknown option is refused, naming file and option", async () => {
    const file = join(directory, "castore.toml");
    writeFileSync(file, '[bridge]\nlisten = "127.0.0.1:0"\nupstraem = ["http://localhost/"]\n');
    const { code, stderr } = await castore(["bridge", "--config", file]);
    expect(code).toBe(1);
    expect(stderr).toBe(`castore: ${file}: [bridge] has no option "upstraem"\n`);
  });

  test("serve takes its address from the config file and says where it listens", async () => {
    const file = join(directory, "serve.toml");
    writeFileSync(file, '[serve]\nlisten = "127.0.0.1:0"\n');
    const env = { ...process.env, CASTORE_STORE: join(directory, "served") };
    const child = spawn(process.execPath, [CASTORE, "serve", "--config", file], { env });
    const line = await new Promise<string>((resolve) => {
      child.stdout.once("data", (piece: Buffer) => resolve(piece.toString()));
    });
    expect(line).toMatch(/^castore serve listening on http:\/\/127\.0\.0\.1:\d+\n$/);
    child.kill("SIGTERM");
    expect(await new Promise((resolve) => child.once("close", resolve))).toBe(0);
  });
});
