import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { runCastore, startCastore } from "../../../test/support/castore-process.ts";
import { type S3Server, startS3Server } from "../../../test/support/s3-server.ts";
import { type Imported, putPathInfo } from "./put-path-info.ts";

const directory = mkdtempSync(join(tmpdir(), "castore-urls-"));
const tree = join(directory, "tree");
const store = join(directory, "store");
const socket = join(directory, "grpc.sock");
const STORE_PATH = `/nix/store/${"0".repeat(32)}-tree`;

let s3: S3Server;
beforeAll(async () => {
  mkdirSync(join(tree, "sub"), { recursive: true });
  writeFileSync(join(tree, "sub", "file"), "contents\n");
  symlinkSync("sub/file", join(tree, "link"));
  mkdirSync(join(directory, "objects"));
  s3 = await startS3Server();
});
afterAll(async () => {
  await s3[Symbol.asyncDispose]();
  rmSync(directory, { recursive: true, force: true });
});

/** Runs the command to its end, which must be well, and returns what it wrote. */
async function castore(...args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await runCastore(args);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return stdout;
}

/** Every command that takes a service URL, on `url`. */
async function useAll(url: string): Promise<void> {
  const [line = ""] = (await castore("import", "--store", url, tree)).split("\n");
  const imported: Imported = JSON.parse(line);
  const { entry } = imported;
  expect(await castore("ls", "--store", url, entry)).toMatch(/ link -> sub\/file\nd.* sub\n$/);
  expect(await castore("cat", "--store", url, `${entry}/sub/file`)).toBe("contents\n");
  const nar = await castore("render", "--store", url, entry);
  const narFile = join(directory, "file.nar");
  writeFileSync(narFile, nar);
  const again = await castore("import-nar", "--store", url, narFile);
  expect(JSON.parse(again)).toMatchObject({ entry, narHash: imported.narHash });
  await putPathInfo(url, STORE_PATH, imported);
  expect(await castore("path-info", "--store", url, STORE_PATH)).toContain(imported.narHash);
  expect(await castore("ls", "--store", url, `${STORE_PATH}/sub`)).toMatch(/ 9 file\n$/);
}

describe("--store takes a service URL", () => {
  test("grpc+unix: and grpc+http:, whose server keeps it in its local store", async () => {
    const args = ["--store", store, "--grpc-listen"];
    {
      await using server = await startCastore("serve", [...args, `unix:${socket}`]);
      await useAll(`grpc+unix:${socket}`);
      await server.stop();
    }
    await using server = await startCastore("serve", [...args, "127.0.0.1:0"]);
    await expect.poll(() => server.stderr).toMatch(/gRPC on/);
    const [, address] = /gRPC on \S*?(127\.0\.0\.1:\d+)/.exec(server.stderr) ?? [];
    await useAll(`grpc+http://${address}`);
    await server.stop();
    expect(JSON.parse(await castore("stats", "--json", "--store", store))).toMatchObject({
      paths: 1,
      directories: 2,
    });
  }, 300_000);

  test("file: and s3:, without any server of castore's", async () => {
    await useAll(`file://${directory}/objects`);
    const parameters = new URLSearchParams({
      endpoint: s3.url,
      aws_access_key_id: s3.accessKeyId,
      aws_secret_access_key: s3.secretAccessKey,
    });
    await useAll(`s3://${s3.bucket}/cli?${parameters}`);
  }, 300_000);

  test("memory:, which is gone with the command, and cache: of two others", async () => {
    const { entry } = JSON.parse(await castore("import", "--store", "memory:", tree));
    const far = encodeURIComponent(`file://${directory}/far`);
    mkdirSync(join(directory, "far"));
    await castore("import", "--store", `file://${directory}/far`, tree);
    const cache = `cache:?near=memory:&far=${far}`;
    expect(await castore("cat", "--store", cache, `${entry}/sub/file`)).toBe("contents\n");
    const { code, stderr } = await runCastore(["cat", "--store", "memory:", `${entry}/sub/file`]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^castore: .*sub\/file/);
  });

  test("$CASTORE_STORE may be one too", async () => {
    const env = { CASTORE_STORE: "memory:" };
    const { code, stdout } = await runCastore(["import", tree], { env });
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ path: tree });
    const gc = await runCastore(["gc"], { env });
    expect(gc.code).toBe(2);
    expect(gc.stderr).toMatch(/CASTORE_STORE.*this needs a local store/);
  });

  test("a server that is down is named, and the command ends", async () => {
    const url = `grpc+unix:${directory}/nobody.sock`;
    const { code, stderr } = await runCastore(["import", "--store", url, tree]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^castore: .*nobody\.sock/);
  });
});

describe("--store is refused, with exit code 2", () => {
  test.each([
    ["gc"],
    ["fsck"],
    ["stats"],
    ["seed", directory],
    ["root", "list"],
    ["mount", directory],
  ])("by %s, which needs a local store, where it is a URL", async (...args) => {
    const { code, stderr } = await runCastore([...args, "--store", "grpc+http://localhost:1"]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/^error: .*needs a local store: a directory, not a service URL/);
  });

  test.each([
    ["ftp://host", /scheme is not known/],
    ["cache:?near=memory:", /want cache:\?near=URL&far=URL/],
  ])("where it is no service URL: %s", async (url, message) => {
    const { code, stderr } = await runCastore(["ls", "--store", url, STORE_PATH]);
    expect(code).toBe(2);
    expect(stderr).toMatch(message);
  });

  test("and its parameters, which may be secret, are not shown", async () => {
    const url = "ftp://bucket?aws_secret_access_key=hush";
    const { code, stderr } = await runCastore(["import", "--store", url, tree]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/argument 'ftp:\/\/bucket\?…'/);
    expect(stderr).not.toContain("hush");
  });
});

test("what the help says of --store is what the command takes", async () => {
  expect(await castore("import", "--help")).toMatch(/--store <dir\|url> +local store .*URL/);
  const help = await castore("gc", "--help");
  expect(help).toMatch(/--store <dir> +local store .*CASTORE_STORE/);
  const readme = readFileSync(new URL("../../../README.md", import.meta.url), "utf8");
  expect(readme).toContain("$CASTORE_STORE");
});
