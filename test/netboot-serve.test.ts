import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { type CastoreProcess, runCastore, startCastore } from "./support/castore-process.ts";
import { machineStatus } from "./support/netboot-site.ts";

const MACHINE = "52:54:00:12:34:56";
const KERNEL = "a kernel of sorts\n".repeat(1_000);

let directory: string;
let server: CastoreProcess;
const at = (...names: string[]) => join(directory, ...names);

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "castore-netboot-"));
  for (const name of ["boot", "machines", "traces"]) mkdirSync(at(name));
  writeFileSync(at("boot/kernel"), KERNEL);
  writeFileSync(at("boot/initrd"), "an initrd");
  writeFileSync(at("machines/52-54-00-12-34-56.conf"), "hostname=one\n");
  writeFileSync(at("machines/default.conf"), "hostname=any\n");
  writeFileSync(at("profile"), "0 5 a\n");
  server = await startCastore("netboot serve", [
    ...["--boot", at("boot"), "--machines", at("machines"), "--traces", at("traces")],
    ...["--profile", at("profile"), "--store", at("store"), "--command-line", "quiet"],
  ]);
});
afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
  rmSync(directory, { recursive: true, force: true });
});

const get = async (path: string) => {
  const answer = await fetch(`${server.url}${path}`);
  return `${answer.status} ${await answer.text()}`;
};
const post = async (path: string, body: string) => {
  return (await fetch(`${server.url}${path}`, { method: "POST", body })).status;
};

it("serves a script that names itself, the kernel, the initrd, and the cache", async () => {
  const script = await get("/boot.ipxe");
  expect(script).toContain("kernel boot/kernel initrd=initrd");
  expect(script).toContain(`castore.server=${server.url} quiet || goto failed`);
  expect(await get("/boot/kernel")).toBe(`200 ${KERNEL}`);
  expect(await get("/boot/initrd")).toBe("200 an initrd");
  expect(await get("/boot/profile")).toBe("200 0 5 a\n");
  expect(await get("/nix-cache-info")).toContain("StoreDir: /nix/store");
});

it("gives each machine its own configuration, or the default", async () => {
  expect(await get(`/boot/machines/${MACHINE}`)).toBe("200 hostname=one\n");
  expect(await get("/boot/machines/52-54-00-00-00-01")).toBe("200 hostname=any\n");
  expect(await get("/boot/machines/..%2f..%2fprofile")).toMatch(/^404 /);
});

it("knows how far a machine is, and what it was sent", async () => {
  expect(await post(`/boot/machines/${MACHINE}/stage`, "starts\n<b>it</b>")).toBe(200);
  const status = await machineStatus(server.url);
  expect(status?.stage).toBe("starts <b>it</b>");
  expect(status?.bootBytes).toBeGreaterThan(KERNEL.length);
  expect(status?.storeRequests).toBeGreaterThan(0);
});

it("keeps traces, of which castore netboot profile makes a list", async () => {
  expect(await post(`/boot/machines/${MACHINE}/trace`, "0 10 x\n0 3 y\n8 20 x\n")).toBe(200);
  expect(await post("/boot/machines/profile/trace", "")).toBe(404);
  const trace = at("traces/52-54-00-12-34-56.trace");
  const made = await runCastore(["netboot", "profile", trace, "--out", at("made")]);
  expect(made).toMatchObject({ code: 0, stdout: "2 pieces, 23 bytes\n" });
  expect(readFileSync(at("made"), "utf8")).toBe("0 20 x\n0 3 y\n");
  writeFileSync(at("bad"), "no trace\n");
  const refused = await runCastore(["netboot", "profile", at("bad"), "--out", at("made")]);
  expect(refused).toMatchObject({ code: 1 });
  expect(refused.stderr).toContain("line 1: want START END PATH");
});

it("does not start without what castore netboot build writes", async () => {
  const { code, stderr } = await runCastore(["netboot", "serve", "--boot", at("machines")]);
  expect(code).toBe(1);
  expect(stderr).toContain("machines/kernel: castore netboot build --out writes it");
});
