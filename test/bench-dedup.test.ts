import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { type DedupAmount, type DedupReport, renderDedupPage } from "@castore/nar-bridge";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { castoreProgram, memoryOf, runCastore } from "./support/castore-process.ts";
import { Chromium } from "./support/chromium.ts";
import { repositoryRoot } from "./support/repository-root.ts";
import { StandInCache } from "./support/stand-in-cache.ts";
import {
  cacheObjects,
  noise,
  prose,
  type StandInPath,
  standInStorePath,
} from "./support/stand-in-closure.ts";

const directory = mkdtempSync(join(tmpdir(), "castore-bench-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const NAMES = [
  "glibc-2.40",
  "bash-5.3",
  "openssl-3.5.4",
  "curl-8.16.0",
  "git-2.51",
  "python3-3.13",
];

/** A closure of some packages; those that `changes` names have other contents. */
function closure(seed: string, changes: Readonly<Record<string, number>>): StandInPath[] {
  const paths: StandInPath[] = [];
  for (const [i, name] of [...NAMES, "system"].entries()) {
    const isKept = i === 0;
    const storePath = standInStorePath(name, isKept ? "" : seed);
    const references = [storePath, ...paths.slice(-2).map((path) => path.storePath)];
    const code = noise(400_000 * (1 + (i % 3)), name);
    noise(code.length * (changes[name] ?? 0), seed).copy(code, 50_000);
    const mentions = Buffer.from(references.map((path) => `/nix/store/${path}`).join(":"));
    const program = Buffer.concat([code, mentions, prose(200_000, name)]);
    const files = { program, readme: prose(30_000, name), [`lib${name}.so`]: noise(90_000, name) };
    paths.push({ storePath, files, references });
  }
  return paths;
}

const first = closure("first", {});
const rebuilt = closure("rebuilt", {});
const bumped = closure("bumped", { "curl-8.16.0": 0.5, "python3-3.13": 1 });
const rootOf = (paths: readonly StandInPath[]) => `/nix/store/${paths.at(-1)?.storePath}`;
const html = join(directory, "out", "page.html");
const json = join(directory, "out", "report.json");
const cache = join(directory, "cache");

const pairs = [`${rootOf(first)}:${rootOf(rebuilt)}`, `${rootOf(first)}:${rootOf(bumped)}`];
const pairArguments = pairs.flatMap((pair) => ["--pair", pair]);

async function bench(url: string, ...more: readonly string[]) {
  return await runCastore(["bench", "dedup", "--cache", url, ...pairArguments, ...more]);
}

function readReport(file = json): DedupReport {
  return JSON.parse(readFileSync(file, "utf8"));
}

let objects: Record<string, Buffer | string> = {};
let table = "";

beforeAll(async () => {
  objects = await cacheObjects([...first, ...rebuilt, ...bumped]);
  for (const [path, body] of Object.entries(objects)) {
    mkdirSync(dirname(join(cache, path)), { recursive: true });
    writeFileSync(join(cache, path), body);
  }
  const url = pathToFileURL(cache).href;
  const { code, stdout, stderr } = await bench(url, "--json", json, "--html", html);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  table = stdout;
});

describe("castore bench dedup", () => {
  it("writes a report in which a rebuild costs no part and a new version does", async () => {
    const { pairs: reports, sum } = readReport();
    expect(reports.map((pair) => [pair.old, pair.new])).toEqual([
      [rootOf(first), rootOf(rebuilt)],
      [rootOf(first), rootOf(bumped)],
    ]);
    const parts = reports.map(({ update }) => update.cuts["chunks64k-normal"]?.parts ?? 0);
    expect(parts[0]).toBe(0);
    expect(parts[1]).toBeGreaterThan(0);
    expect(sum.update.paths).toBe(12);
    expect(sum.atRest.paths).toBe(3 * first.length - 2);
  });

  it("prints a table with a line for each way, in 100 columns", async () => {
    const { cuts } = readReport();
    for (const title of ["NARs as served", ...cuts.map((cut) => cut.title)]) {
      expect(table.split("\n").filter((line) => line.startsWith(`  ${title}  `)).length).toBe(6);
    }
    expect(table).toMatch(/^UPDATE 1: 6 new paths, 1 unchanged$/m);
    expect(table).toMatch(/^SUM OF 2 UPDATES: 12 new paths$/m);
    expect(Math.max(...table.split("\n").map((line) => line.length))).toBeLessThanOrEqual(100);
  });

  it("killed in the middle and started again, it reports the same", async () => {
    await using server = await StandInCache.start({ objects });
    const state = join(directory, "state");
    const options = ["--state", state, "--concurrency", "1"];
    const nars = new Set(Object.keys(objects).filter((path) => path.startsWith("/nar/")));
    server.fail((seen) => seen.pathClass === "nar" && server.seen("nar").length === 9, {
      kind: "stall",
      afterBytes: 1000,
    });
    const args = ["bench", "dedup", "--cache", server.origin, ...pairArguments, ...options];
    const child = spawn(process.execPath, [castoreProgram(), ...args], { stdio: "ignore" });
    await server.until(() => server.seen("nar").some(({ bytes }, i) => i === 8 && bytes > 0));
    child.kill("SIGKILL");
    await once(child, "close");
    server.heal();
    const before = server.seen("nar").length;
    const resumed = join(directory, "resumed.json");
    const output = await bench(server.origin, ...options, "--json", resumed);
    expect(output.stderr).toBe("");
    expect(server.seen("nar").length - before).toBe(nars.size - 8);
    expect(readReport(resumed)).toEqual({ ...readReport(), cache: `${server.origin}/` });
  });

  it("draws a bar with the time left on a terminal", async () => {
    const args = ["bench", "dedup", "--cache", pathToFileURL(cache).href, ...pairArguments];
    const command = [process.execPath, castoreProgram(), ...args].join(" ");
    const child = spawn("script", ["-qfec", command, "/dev/null"], { env: terminal() });
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
    await once(child, "close");
    expect(output).toMatch(/nars \d+\/19 .* % · .* of .* left/);
  });

  // Some 250 MiB on Node 20, and 340 on Node 22, which takes fresh memory for each frame.
  it("reads a NAR of 816 MiB in 512 MiB at most, all told", async () => {
    const files = { zeros: Buffer.alloc(768 << 20), noise: noise(48 << 20, "n") };
    const path = { storePath: standInStorePath("large"), files, references: [] };
    await using server = await StandInCache.start({ objects: await cacheObjects([path], "none") });
    const options = ["--cache", server.origin, "--pair", `:${path.storePath}`];
    const args = ["bench", "dedup", ...options, "--zstd-level", "1"];
    const child = spawn(process.execPath, [castoreProgram(), ...args], { stdio: "ignore" });
    let peak = 0;
    const timer = setInterval(() => {
      peak = Math.max(peak, memoryOf(child.pid ?? 0));
    }, 20);
    const [code] = await once(child, "close");
    clearInterval(timer);
    expect(code).toBe(0);
    expect(peak).toBeLessThan(512 << 20);
  });

  it.each([
    ["a pair of one", ["--pair", "x"]],
    ["a name that is no store path", ["--pair", "hello:world"]],
    ["a level that zstd does not have", [...pairArguments, "--zstd-level", "20"]],
    ["no pair", []],
  ])("%s is a usage error", async (_, args) => {
    const { code, stdout } = await runCastore(["bench", "dedup", ...args]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
  });
});

function terminal(): NodeJS.ProcessEnv {
  return { ...process.env, TERM: "xterm", HOME: directory };
}

describe("the page, in a browser", () => {
  async function openPage(file: string, options = {}, hash = "") {
    const chromium = await Chromium.start(options);
    await chromium.open(pathToFileURL(file).href + hash);
    return chromium;
  }

  it("asks for nothing and complains of nothing", async () => {
    await using chromium = await openPage(html);
    expect(chromium.requests).toEqual([pathToFileURL(html).href]);
    expect(chromium.complaints).toEqual([]);
    expect(await chromium.evaluate("document.title")).toContain("Deduplication of file:///");
    const size = await chromium.evaluate<number[]>("[innerWidth, document.body.scrollHeight]");
    const png = await chromium.screenshot();
    const pictures = join(repositoryRoot(), ".cache");
    mkdirSync(pictures, { recursive: true });
    writeFileSync(join(pictures, "bench-dedup.png"), png);
    expect(png.readUInt32BE(16)).toBeGreaterThan(1000);
    expect(png.readUInt32BE(20)).toBeGreaterThanOrEqual(size[1] ?? 0);
    expect(png.length).toBeGreaterThan(50_000);
  });

  it("shows one view, which the choices and the URL change", async () => {
    await using chromium = await openPage(html, {}, "#2-9");
    const shown = "[...document.querySelectorAll('.view')].filter((v) => v.checkVisibility())";
    const ids = async () => await chromium.evaluate(`${shown}.map((view) => view.id)`);
    expect(await ids()).toEqual(["view-2-9"]);
    await chromium.evaluate(`{
      const select = document.querySelector("select");
      select.value = "1";
      select.dispatchEvent(new Event("change"));
    }`);
    expect(await ids()).toEqual(["view-1-9"]);
    expect(await chromium.evaluate("location.hash")).toBe("#1-9");
    const options = "[...document.querySelectorAll('option')].map((option) => option.value)";
    expect(await chromium.evaluate(options)).toEqual(["sum", "1", "2", "3", "9"]);
  });

  it("draws bars as long as the report says", async () => {
    await using chromium = await openPage(html, {}, "#2-3");
    const { update, atRest } = readReport().pairs[1] ?? {};
    const widths = await chromium.evaluate<number[][]>(`
      [...document.querySelectorAll("#view-2-3 .bars")].map((bars) =>
        [...bars.querySelectorAll(".track")].map((track) =>
          [...track.querySelectorAll("i")].reduce((sum, i) => sum + i.offsetWidth, 0)))`);
    const ways = Object.values(update?.cuts ?? {});
    const wire = ({ zstdBytes, metadataBytes }: DedupAmount) => (zstdBytes[0] ?? 0) + metadataBytes;
    const expected = [
      [update?.servedBytes ?? 0, ...ways.map(wire)],
      [
        ...[atRest?.both.narBytes ?? 0, atRest?.both.servedBytes ?? 0],
        ...Object.values(atRest?.both.cuts ?? {}).map(wire),
      ],
    ];
    expect(widths.map(({ length }) => length)).toEqual([9, 10]);
    for (const [chart, bytes] of expected.entries()) {
      const longest = Math.max(...(widths[chart] ?? []));
      const most = Math.max(...bytes);
      for (const [i, each] of bytes.entries()) {
        expect(Math.abs((widths[chart]?.[i] ?? 0) - (longest * each) / most)).toBeLessThan(3);
      }
    }
  });

  it("has a dot for each path, within the axes", async () => {
    await using chromium = await openPage(html, {}, "#1-3");
    const dots = await chromium.evaluate<{ x: number; y: number }[]>(`
      [...document.querySelectorAll("#view-1-3 circle")].map((circle) =>
        ({ x: circle.cx.baseVal.value, y: circle.cy.baseVal.value }))`);
    expect(dots.length).toBe(6);
    const outside = dots.filter(({ x, y }) => x < 70 || x > 830 || y < 10 || y > 340);
    expect(outside).toEqual([]);
  });

  it.each([1100, 480])("nothing overlaps or sticks out, %i pixels wide", async (width) => {
    await using chromium = await openPage(html, { width, colorScheme: "dark" });
    const picture = join(repositoryRoot(), ".cache", `bench-dedup-${width}.png`);
    writeFileSync(picture, await chromium.screenshot());
    expect(await chromium.evaluate("document.documentElement.scrollWidth")).toBeLessThanOrEqual(
      width,
    );
    const overlaps = await chromium.evaluate(`
      [...document.querySelectorAll(".view:not([hidden]) .bar, .view:not([hidden]) .tiles")]
        .flatMap((row) => {
          const boxes = [...row.children].map((child) => child.getBoundingClientRect());
          return boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) =>
            a.left < b.right - 1 && b.left < a.right - 1 &&
            a.top < b.bottom - 1 && b.top < a.bottom - 1)).map(() => row.textContent);
        })`);
    expect(overlaps).toEqual([]);
  });

  it("sorts its table by a column", async () => {
    await using chromium = await openPage(html, {}, "#2-3");
    const column = (index: number) =>
      chromium.evaluate<string[]>(`
        [...document.querySelectorAll("#view-2-3 tbody tr")].map((row) =>
          row.cells[${index}].dataset.value ?? row.cells[${index}].textContent)`);
    const click = (index: number) =>
      chromium.evaluate(`document.querySelectorAll("#view-2-3 th button")[${index}].click()`);
    const sizes = (await column(1)).map(Number);
    await click(1);
    expect((await column(1)).map(Number)).toEqual(sizes.toSorted((a, b) => b - a));
    await click(1);
    expect((await column(1)).map(Number)).toEqual(sizes.toSorted((a, b) => a - b));
    const names = await column(0);
    await click(0);
    expect(await column(0)).toEqual(names.toSorted());
  });

  it("shows hostile names and URLs as text", async () => {
    const hostile = `https://x/"><script>document.title="gone"</script><img src=https://y/>'`;
    const report = readReport();
    const [pair] = report.pairs;
    if (pair === undefined) throw new Error("there are two");
    const paths = pair.paths.map((path) => ({ ...path, storePath: hostile }));
    const pairs = [{ ...pair, old: hostile, new: hostile, paths }];
    const file = join(directory, "hostile.html");
    writeFileSync(file, renderDedupPage({ ...report, cache: hostile, pairs }));
    await using chromium = await openPage(file);
    expect(await chromium.evaluate("document.title")).toBe(`Deduplication of ${hostile}`);
    expect(await chromium.evaluate("[document.scripts.length, document.images.length]")).toEqual([
      1, 0,
    ]);
    expect(chromium.requests).toEqual([pathToFileURL(file).href]);
  });
});
