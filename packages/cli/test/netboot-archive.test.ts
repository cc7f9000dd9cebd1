import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, readlinkSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathComponentOfText } from "@castore/castore";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bootDisk } from "../src/netboot/boot-disk.ts";
import { mergeTraces } from "../src/netboot/boot-profile.ts";
import { type CpioEntry, encodeCpio } from "../src/netboot/cpio-archive.ts";
import { stripElf } from "../src/netboot/elf-file.ts";
import { stripIcuData } from "../src/netboot/icu-data.ts";
import { formatBootFile } from "../src/netboot/initrd.ts";
import { formatIpxeScript } from "../src/netboot/ipxe-script.ts";
import { parseMachineName } from "../src/netboot/machines.ts";
import { runtimeOptions } from "../src/netboot/runtime-options.ts";

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "castore-netboot-"));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const file = (path: string, text: string, executable = false): CpioEntry => ({
  path,
  type: "file",
  bytes: Buffer.from(text),
  executable,
});

describe("cpio archive", () => {
  const entries: CpioEntry[] = [
    file("init", "#!/bin/sh\n", true),
    file("a/b/c", "four"),
    file("a/b/d", "fives"),
    { path: "a/link", type: "symlink", target: "b/c" },
    { path: "empty", type: "directory" },
  ];

  it("unpacks to what was put in, with the directories that lead there", () => {
    const archive = join(directory, "archive");
    writeFileSync(archive, Buffer.concat([...encodeCpio(entries)]));
    const script = `mkdir out && cd out && cpio -id <../archive 2>/dev/null`;
    execFileSync("busybox", ["sh", "-c", script], { cwd: directory });
    const at = (path: string) => join(directory, "out", path);
    expect(readFileSync(at("a/b/c"), "utf8")).toBe("four");
    expect(readFileSync(at("a/b/d"), "utf8")).toBe("fives");
    expect(readlinkSync(at("a/link"))).toBe("b/c");
    expect(statSync(at("empty")).isDirectory()).toBe(true);
    expect(statSync(at("init")).mode & 0o777).toBe(0o755);
    expect(statSync(at("a/b/d")).mode & 0o777).toBe(0o644);
  });

  it("is the same bytes in whatever order entries come", () => {
    const one = Buffer.concat([...encodeCpio(entries)]);
    expect(Buffer.concat([...encodeCpio([...entries].reverse())]).equals(one)).toBe(true);
  });

  it("refuses two entries of one path, and a file as a directory", () => {
    const encode = (list: CpioEntry[]) => [...encodeCpio(list)];
    expect(() => encode([file("x", "1"), file("x", "2")])).toThrow("x comes twice");
    expect(() => encode([file("x", "1"), file("x/y", "2")])).toThrow("x is no directory");
  });
});

function zerosOf(bytes: Uint8Array): number {
  let count = 0;
  for (const byte of bytes) if (byte === 0) count++;
  return count;
}

describe("stripped ELF files", () => {
  it("run as before, and are smaller where they had symbols", () => {
    const node = readFileSync(process.execPath);
    const stripped = stripElf(node, "node");
    expect(stripped.length).toBeLessThanOrEqual(node.length);
    const path = join(directory, "node");
    writeFileSync(path, stripped, { mode: 0o755 });
    expect(execFileSync(path, ["-p", "6 * 7"], { encoding: "utf8" })).toBe("42\n");
  });

  it("run without the data of other languages, which fall back to English", () => {
    const node = readFileSync(process.execPath);
    const stripped = Buffer.from(node);
    stripIcuData(stripped);
    expect(zerosOf(stripped)).toBeGreaterThan(zerosOf(node) + 10_000_000);
    const path = join(directory, "node-of-english");
    writeFileSync(path, stripped, { mode: 0o755 });
    const script = `
      const word = new Intl.Segmenter("th", { granularity: "word" }).segment("one two");
      const country = new Intl.DisplayNames("fr", { type: "region" }).of("DE");
      const number = (1234.5).toLocaleString("de");
      const day = new Date(0).toLocaleDateString("ja", { timeZone: "Asia/Tokyo", weekday: "long" });
      console.log(word.containing(0).segment, country, number, day, "b".localeCompare("ä", "sv"));
    `;
    const run = (program: string) => execFileSync(program, ["-e", script], { encoding: "utf8" });
    expect(run(process.execPath)).toBe("one Allemagne 1.234,5 木曜日 -1\n");
    expect(run(path)).toBe("one Germany 1,234.5 Thursday 1\n");
  });

  it("are refused where they are none, or cut", () => {
    expect(() => stripElf(Buffer.from("#!/bin/sh\n".repeat(9)), "x")).toThrow(
      "x: no 64-bit little-endian ELF file",
    );
    const node = readFileSync(process.execPath);
    expect(() => stripElf(node.subarray(0, 100_000), "x")).toThrow("x: is cut");
  });
});

describe("what machines read", () => {
  it("the options for their runtime are those that it knows", async () => {
    const options = await runtimeOptions();
    expect(options).toContain("--no-sparkplug");
    const run = () => execFileSync(process.execPath, [...options, "-p", "6 * 7"]);
    expect(run().toString()).toBe("42\n");
  });

  it("the boot file of an initrd is lines of KEY=VALUE", () => {
    const boot = {
      system: "/nix/store/x",
      upstreams: ["https://a", "https://b"],
      publicKeys: ["a-1:AA=="],
      rootKeys: [],
      cacheSize: "10%",
      kernelMount: true,
    };
    expect(formatBootFile(boot)).toBe(
      "system=/nix/store/x\nupstream=https://a\nupstream=https://b\npublic-key=a-1:AA==\n" +
        "cache-size=10%\nkernel-mount=yes\n",
    );
  });

  it("the iPXE script names the machine by its card, and its server", () => {
    const script = formatIpxeScript({ commandLine: "quiet", base: "boot/", server: "http://x" });
    const words =
      "initrd=initrd net.ifnames=0 castore.machine=$" + "{net0/mac} castore.server=http://x quiet";
    expect(script).toContain(`kernel boot/kernel ${words} || goto failed`);
    expect(script.startsWith("#!ipxe\n")).toBe(true);
  });

  it("a machine's name is an address of Ethernet, however it is written", () => {
    expect(parseMachineName("52-54-00-AB-cd-01")).toBe("52:54:00:ab:cd:01");
    expect(parseMachineName("52:54:00:12:34")).toBeUndefined();
    expect(parseMachineName("../../etc/passwd")).toBeUndefined();
  });
});

describe("a boot profile", () => {
  it("has each piece once, the pieces of a file together, near ones as one", () => {
    const path = (name: string) => [pathComponentOfText(name)];
    const touch = (name: string, start: number, end: number) => ({ path: path(name), start, end });
    const first = [touch("b", 0, 10), touch("a", 0, 5), touch("b", 500, 600)];
    const second = [touch("a", 3, 9), touch("b", 12, 20), touch("c", 0, 1)];
    expect(mergeTraces([first, second], 4)).toEqual([
      touch("b", 0, 20),
      touch("b", 500, 600),
      touch("a", 0, 9),
      touch("c", 0, 1),
    ]);
  });
});

it("a boot disk is as large as what it holds needs, up to half a GiB", () => {
  const file = new Uint8Array(100_000_000).fill(7);
  const disk = bootDisk("BOOTX64.EFI", file);
  const at = disk.indexOf(file.subarray(0, 4096));
  expect(disk.subarray(at, at + file.byteLength).equals(file)).toBe(true);
  expect(disk.byteLength - file.byteLength).toBeLessThan(2 << 20);
  expect(() => bootDisk("BOOTX64.EFI", new Uint8Array(1 << 30))).toThrow("is too large");
});
