import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { castoreProgram, runCastore } from "../support/castore-process.ts";
import { machineParts } from "../support/virtual-machine.ts";

const execute = promisify(execFile);
const system = "/nix/store/00000000000000000000000000000000-system";
const key = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
const MIB = 2 ** 20;

describe("castore netboot build", () => {
  const { kernel, modules, efiStub } = machineParts();
  const from = ["--kernel", kernel, "--modules", modules, "--trusted-public-key", key];
  const args = ["netboot", "build", "--system", system, ...from];
  const image = ["--image", "--efi-stub", efiStub];
  let directory: string;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "castore-netboot-"));
  });
  afterAll(() => rm(directory, { recursive: true, force: true }));

  it("writes equal bytes whatever directory, umask and time zone it runs in", async () => {
    const outputs: string[] = [];
    for (const [name, umask, zone] of [
      ["one", "022", "UTC"],
      ["two/deeper", "077", "Asia/Tokyo"],
    ]) {
      const out = join(directory, name ?? "");
      const script = `umask ${umask}; mkdir -p "$OUT"; cd "$OUT"; exec "$@" --out .`;
      const command = [process.execPath, castoreProgram(), ...args, ...image, "--compression", "1"];
      const env = { ...process.env, OUT: out, TZ: zone };
      const { stdout } = await execute("sh", ["-c", script, "sh", ...command], { env });
      outputs.push(stdout);
    }
    expect(outputs[0]).toMatch(/^[0-9a-f]{64} {2}kernel {2}\d+\n[0-9a-f]{64} {2}initrd /);
    expect(outputs[1]).toBe(outputs[0]);
    for (const name of ["initrd", "boot.ipxe", "boot.efi", "boot.img"]) {
      const bytes = await readFile(join(directory, "one", name));
      expect(bytes.equals(await readFile(join(directory, "two/deeper", name)))).toBe(true);
      const digest = createHash("sha256").update(bytes).digest("hex");
      expect(outputs[0]).toContain(`${digest}  ${name}  ${bytes.byteLength}\n`);
    }
  }, 300_000);

  it("makes an initrd of at most 35 MB with the drivers of virtual machines", async () => {
    const out = join(directory, "small");
    expect(await runCastore([...args, "--out", out])).toMatchObject({ code: 0 });
    expect((await stat(join(out, "initrd"))).size).toBeLessThanOrEqual(35_000_000);
  }, 900_000);

  it("makes one of at most 60 MB with all Ethernet drivers of the generic kernel", async () => {
    const { generic } = machineParts();
    const out = join(directory, "ethernet");
    // The usual level makes fewer bytes yet, and takes a minute.
    const more = ["--modules", generic, "--drivers", "ethernet", "--compression", "3"];
    expect(await runCastore([...args, ...more, "--out", out])).toMatchObject({ code: 0 });
    const { size } = await stat(join(out, "initrd"));
    expect(size).toBeGreaterThan((await stat(join(directory, "one/initrd"))).size);
    expect(size).toBeLessThanOrEqual(60_000_000);
  }, 900_000);

  it("fits into 120 MiB of a machine's memory when it is unpacked", async () => {
    const archive = join(directory, "one/initrd");
    const list = `zstd -dc "$0" | busybox cpio -itv | awk '$NF ~ /^srv/ {s += $3} END {print s}'`;
    const { stdout } = await execute("sh", ["-c", list, archive]);
    expect(Number(stdout)).toBeGreaterThan(80 * MIB);
    expect(Number(stdout)).toBeLessThanOrEqual(120 * MIB);
  });

  it("says what is wrong", async () => {
    const attempt = async (...more: string[]) => {
      const { code, stderr } = await runCastore([...args, "--out", directory, ...more]);
      return `${code} ${stderr}`;
    };
    expect(await attempt("--modules", "/usr")).toContain("kernel modules in /usr: want the lib");
    expect(await attempt("--kernel", "/nowhere")).toContain("kernel /nowhere: cannot be read");
    expect(await attempt("--cache-size", "some")).toContain("want a size");
    expect(await attempt("--system", "/usr")).toMatch(/^1 castore: .*\/usr/);
    expect(await attempt("--trusted-root-key", "x")).toMatch(/^1 castore: /);
    expect(await attempt("--image", "--efi-stub", process.execPath)).toContain("no PE file");
    expect(await attempt("--busybox", process.execPath)).toContain("is not linked statically");
  });
});
