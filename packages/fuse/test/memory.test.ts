import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, rm } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { memoryOf } from "../../../test/support/castore-process.ts";
import { output, temporaryDirectory } from "./mount-fixture.ts";

const program = fileURLToPath(new URL("serve-synthetic.js", import.meta.url));

it("a server that knows a million inodes takes at most 300 MiB", async () => {
  const base = await temporaryDirectory();
  const mountpoint = `${base}/mnt`;
  await mkdir(mountpoint);
  const child = spawn(process.execPath, [program, mountpoint], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const exited = once(child, "exit");
  await once(child.stdout, "data");
  // One absent name in each directory makes the server, but not the kernel, know all others.
  const script = `cd '${mountpoint}'; for i in $(seq 0 999); do
    printf '%032d-package-1.%d/absent\\0' $i $i; done | xargs -0 stat 2>&1 | grep -c 'No such'`;
  expect(await output(script)).toBe("1000\n");
  const last = await output(
    `stat -c %i '${mountpoint}/${"0".repeat(29)}999-package-1.999/module-999-999.cpython-312.pyc'`,
  );
  expect(Number(last)).toBeGreaterThan(900_000);
  const mebibytes = memoryOf(child.pid ?? 0) / 2 ** 20;
  console.log(`${mebibytes.toFixed(0)} MiB`);
  expect(mebibytes).toBeLessThan(300);
  child.stdin.end();
  await exited;
  await rm(base, { recursive: true });
});
