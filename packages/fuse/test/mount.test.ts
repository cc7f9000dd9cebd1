import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { CastoreError, EMPTY_DIGEST, pathComponentOfText } from "@castore/castore";
import { beforeAll, describe, expect, it } from "vitest";
import { mountStore } from "../src/mount.ts";
import { unmountFuse } from "../src/mountpoint.ts";
import {
  createMemoryStore,
  mountTemporary,
  output,
  run,
  temporaryDirectory,
} from "./mount-fixture.ts";
import { serveTrees } from "./serving-process.ts";

const NOBODY = 65_534;

/** udev's mode for the device; without udev it is root's alone, and users cannot mount. */
beforeAll(() => chmod("/dev/fuse", 0o666));

async function temporaryMountpoint(owner = 0): Promise<{ base: string; at: string }> {
  const base = await temporaryDirectory();
  const at = `${base}/mnt`;
  await mkdir(at);
  await chmod(base, 0o755);
  await output(`chown ${owner} '${base}' '${at}'`);
  return { base, at };
}

const isMounted = async (at: string): Promise<boolean> =>
  (await output("cat /proc/mounts")).includes(` ${at} fuse.castore `);

describe("a mountpoint", () => {
  it("that is not empty is refused, unless told to mount over", async () => {
    const { base, at } = await temporaryMountpoint();
    await writeFile(`${at}/there`, "");
    const options = { mountpoint: at, ...createMemoryStore() };
    await expect(mountStore(options)).rejects.toMatchObject({
      code: "INVALID",
      message: expect.stringContaining("not empty"),
    });
    const mount = await mountStore({ ...options, over: true });
    expect(await isMounted(at)).toBe(true);
    await mount.close();
    expect(await output(`ls '${at}'`)).toBe("there\n");
    await output(`rm -r '${base}'`);
  });

  it("that is no directory, or not there, is refused", async () => {
    const { base } = await temporaryMountpoint();
    await writeFile(`${base}/file`, "");
    for (const mountpoint of [`${base}/file`, `${base}/absent`]) {
      const mounting = mountStore({ mountpoint, ...createMemoryStore() });
      await expect(mounting).rejects.toMatchObject({ code: "INVALID" });
    }
    await output(`rm -r '${base}'`);
  });

  it("that holds the running program is refused for that reason", async () => {
    const own = fileURLToPath(new URL("../dist", import.meta.url));
    for (const mountpoint of ["/", dirname(process.execPath), own]) {
      const mounting = mountStore({ mountpoint, ...createMemoryStore() });
      await expect(mounting).rejects.toThrow(/holds .* which runs/);
    }
  });

  it("with a name of blanks and letters beyond ASCII works", async () => {
    const base = await temporaryDirectory();
    const mountpoint = `${base}/m nt\\é`;
    await mkdir(mountpoint);
    const store = createMemoryStore();
    const mount = await mountStore({ mountpoint, ...store, listRoot: true });
    expect(await output(`ls -A '${mountpoint}'`)).toBe("");
    await mount.unmount();
    await output(`rm -r '${base}'`);
  });
});

describe("unmounting", () => {
  it("is refused while a program is in there, and serves on", async () => {
    const store = createMemoryStore();
    const node = { type: "directory", digest: EMPTY_DIGEST, size: 0 } as const;
    store.roots.set(pathComponentOfText("d"), { node });
    await using m = await mountTemporary(store);
    const inside = spawn("sh", ["-c", `cd '${m.base}/mnt/d'; echo; exec sleep 1000`]);
    const gone = once(inside, "exit");
    await once(inside.stdout, "data");
    await expect(m.mount.unmount()).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect(await output(`stat -c %F '${m.base}/mnt/d'`)).toBe("directory\n");
    inside.kill();
    await gone;
    await m.mount.unmount();
  });

  it("by somebody else ends the mount", async () => {
    await using m = await mountTemporary(createMemoryStore());
    await output(`umount '${m.base}/mnt'`);
    await m.mount.ended;
    await m.mount.close();
  });

  it("what is not mounted says so", async () => {
    const { base, at } = await temporaryMountpoint();
    await expect(unmountFuse(at)).rejects.toBeInstanceOf(CastoreError);
    await output(`rm -r '${base}'`);
  });
});

describe.each([
  ["root", 0],
  ["an ordinary user", NOBODY],
])("a serving process of %s", (_, uid) => {
  it("mounts, serves and unmounts", async () => {
    const { base, at } = await temporaryMountpoint(uid);
    await output(`mkdir -p '${base}/tree/sub'; echo hi >'${base}/tree/sub/file'`);
    const server = await serveTrees({ mountpoint: at, trees: { t: `${base}/tree` } }, { uid });
    expect(await isMounted(at)).toBe(true);
    expect(await output(`cat '${at}/t/sub/file'`, { uid })).toBe("hi\n");
    expect(await server.stop()).toBe(0);
    expect(await isMounted(at)).toBe(false);
    await output(`rm -r '${base}'`);
  });

  it("that falls leaves no mount behind", async () => {
    const { base, at } = await temporaryMountpoint(uid);
    const server = await serveTrees({ mountpoint: at, trees: {} }, { uid });
    server.child.stdin?.write("fall");
    expect(await server.exited).toBe(1);
    expect(await isMounted(at)).toBe(false);
    await output(`rm -r '${base}'`);
  });

  it("that was killed leaves a mount that can be taken away", async () => {
    const { base, at } = await temporaryMountpoint(uid);
    const server = await serveTrees({ mountpoint: at, trees: {} }, { uid });
    server.child.kill("SIGKILL");
    expect(await server.exited).toBe("SIGKILL");
    expect((await run(`ls '${at}'`, { uid })).stderr).toContain("endpoint is not connected");
    await expect(mountStore({ mountpoint: at, ...createMemoryStore() })).rejects.toThrow(
      uid === 0 ? /server is gone/ : /server is gone|EACCES/,
    );
    await output(uid === 0 ? `umount '${at}'` : `fusermount3 -u '${at}'`, { uid });
    await output(`rm -r '${base}'`);
  });
});

describe("without koffi", () => {
  it("root mounts with mount(8), and unmounts with umount(8)", async () => {
    const { base, at } = await temporaryMountpoint();
    await output(`mkdir -p '${base}/tree'; echo hi >'${base}/tree/file'`);
    const options = { mountpoint: at, trees: { t: `${base}/tree` } };
    const server = await serveTrees(options, { withoutKoffi: true });
    expect(await isMounted(at)).toBe(true);
    expect(await output(`grep ' ${at} ' /proc/mounts | cut -d ' ' -f 4 | cut -d , -f 1-4`)).toBe(
      "ro,nosuid,nodev,noatime\n",
    );
    expect(await output(`cat '${at}/t/file'`)).toBe("hi\n");
    expect(await server.stop()).toBe(0);
    expect(await isMounted(at)).toBe(false);
    await output(`rm -r '${base}'`);
  });

  it("other users are told what is missing", async () => {
    const { base, at } = await temporaryMountpoint(NOBODY);
    const serving = serveTrees({ mountpoint: at, trees: {} }, { uid: NOBODY, withoutKoffi: true });
    await expect(serving).rejects.toThrow(/only root can without koffi/);
    await output(`rm -r '${base}'`);
  });
});
