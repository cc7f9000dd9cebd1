import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openLocalStore } from "@castore/castore";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { runCastore, startCastore } from "../../../test/support/castore-process.ts";
import type { StorePath } from "../src/nix/store-path.ts";
import { serveFiles } from "./file-server.ts";
import { directory, file } from "./nar-fixture.ts";
import { makePath, narInfoPath, SECRET_KEY, type TestPath } from "./path-fixture.ts";
import { raw } from "./raw-client.ts";
import { Relay } from "./relay.ts";
import { type Serve, startServe, upload } from "./serve-fixture.ts";
import { holdSomething, NOISE } from "./upgrade-fixture.ts";

const PATHS = 100;
const TRUST = ["--trusted-public-key", SECRET_KEY.publicKey.text];

/** A closure like many: most paths are small, a few large; each refers to some before it. */
async function makeClosure(): Promise<TestPath[]> {
  const paths: TestPath[] = [];
  const named = (at: number): StorePath[] => {
    const before = paths[at];
    return before === undefined ? [] : [before.narInfo.storePath];
  };
  for (let i = 0; i < PATHS; i++) {
    const size = i % 10 === 0 ? 700_000 : i % 2 === 0 ? 90_000 : 700;
    const contents = Buffer.from(NOISE.subarray(i * 20_000, i * 20_000 + size));
    contents.write(`contents ${i}`);
    const references = [...named(i - 1), ...named(i >> 1), "self" as const];
    const tree = directory({ data: file(contents), name: file(`path ${i}\n`) });
    paths.push(await makePath(`path-${i}`, tree, { references: [...new Set(references)] }));
  }
  return paths;
}

/** What Nix does: all narinfos, then the NARs, leaves first, some at once. */
async function fetchAsNix(url: string, paths: readonly TestPath[], parallel: number) {
  for (const path of paths.toReversed()) {
    expect((await raw(url + narInfoPath(path))).status).toBe(200);
  }
  const open = [...paths];
  const work = async () => {
    for (let path = open.shift(); path !== undefined; path = open.shift()) {
      expect((await raw(url + path.bridged)).body.equals(path.nar)).toBe(true);
    }
  };
  await Promise.all(Array.from({ length: parallel }, work));
}

describe("requests for a closure of 100 paths", () => {
  let paths: TestPath[];
  let root: string;
  let serve: Serve;
  let directoryOf: string;
  const store = (name: string) => ["--store", join(directoryOf, name)];

  beforeAll(async () => {
    directoryOf = mkdtempSync(join(tmpdir(), "castore-requests-"));
    paths = await makeClosure();
    const last = paths.at(-1);
    if (last === undefined) throw new Error("no paths");
    root = `/nix/store/${last.narInfo.storePath}`;
    serve = await startServe();
    await upload(serve, ...paths);
  });
  afterAll(async () => {
    await serve[Symbol.asyncDispose]();
    rmSync(directoryOf, { recursive: true, force: true });
  });

  test("castore substitute from serve: at most 20, and explain accounts for them", async () => {
    await using relay = await Relay.start(serve.url);
    const from = ["--upstream", relay.url, ...TRUST];
    const done = await runCastore(["substitute", ...store("substitute"), ...from, root]);
    expect(done).toMatchObject({ code: 0 });
    expect(done.stdout.trim().split("\n").length).toBe(PATHS);
    expect(relay.requests.map(({ path }) => path).length).toBeLessThanOrEqual(20);
    expect(relay.seen(/^GET \/nar\//)).toEqual([]);

    const explain = ["explain", ...store("substitute"), "--closure", root];
    const { stdout } = await runCastore([...explain, "--json"]);
    const lines = stdout.trim().split("\n");
    const costs = lines.map((line) => JSON.parse(line).cost);
    expect(new Set(costs.map(({ way }) => way))).toEqual(new Set(["castore"]));
    const spent = (what: "requests" | "bytes") =>
      costs.reduce((sum, { metadata, contents }) => sum + metadata[what] + contents[what], 0);
    const castore = / \/castore\/(closure|fetch)$/;
    expect(spent("requests")).toBe(relay.seen(castore).length);
    expect(spent("bytes")).toBe(relay.bytes(castore));
    const text = (await runCastore(explain)).stdout;
    expect(text).toContain(`\n${PATHS} paths, `);
    expect(text).toMatch(/\n {2}taken {4}chunks .* in 1 request, \d+\.\d{3} s, castore at /);
    expect(text).toMatch(/\n {2}(slower|costlier|larger) +nar .* in 1 request, .* NAR at /);
  });

  test("from static files: a closure's metadata once, or three files a path", async () => {
    // Each file of an export is two fsyncs: fewer paths will do.
    const part = paths.slice(0, 30);
    const top = `/nix/store/${part.at(-1)?.narInfo.storePath}`;
    const to = join(directoryOf, "exported");
    const options = ["--compression", "zstd:1", "--to", to];
    expect(await runCastore(["export", ...store("substitute"), ...options, top])).toMatchObject({
      code: 0,
    });
    await using files = await serveFiles(to);
    await using relay = await Relay.start(files.url);
    const count = (pattern: RegExp) => relay.seen(pattern).length;
    for (const name of ["static", "static-part"]) {
      const path = join(directoryOf, name);
      await using local = await openLocalStore({ path, create: true });
      await holdSomething({ store: local });
    }
    await using bridge = await startCastore("bridge", [
      ...[...store("static"), "--upstream", relay.url, ...TRUST],
    ]);
    await fetchAsNix(bridge.url, part, 4);
    expect(count(/ \/summaries\//)).toBe(1);
    expect(count(/ \/closure\//)).toBe(0);
    expect(relay.requests.length - count(/ \/chunks\//)).toBeLessThanOrEqual(2 * part.length + 5);

    // A closure of which no path was named.
    for (const named of ["closure", "summaries"]) rmSync(join(to, named), { recursive: true });
    relay.requests.length = 0;
    await using other = await startCastore("bridge", [
      ...[...store("static-part"), "--upstream", relay.url, ...TRUST],
    ]);
    await fetchAsNix(other.url, part, 4);
    const large = part.filter(({ file: { byteLength } }) => byteLength > 64 * 1024).length;
    const rest = relay.requests.length - count(/ \/chunks\//);
    expect(rest).toBeLessThanOrEqual(2 * part.length + 3 * large + 5);
    expect(count(/ \/summaries\//)).toBe(1);
  });

  test.each([1, 16])(
    "the bridge under a Nix with %i at once: 20 and 1 a path",
    async (parallel) => {
      await using relay = await Relay.start(serve.url);
      const from = ["--upstream", relay.url, ...TRUST];
      await using bridge = await startCastore("bridge", [...store(`bridge-${parallel}`), ...from]);
      await fetchAsNix(bridge.url, paths, parallel);
      expect(relay.seen(/narinfo$/).length).toBe(PATHS);
      expect(relay.requests.length).toBeLessThanOrEqual(20 + PATHS);
    },
  );
});
