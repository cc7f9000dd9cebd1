import {
  createMemoryDirectoryService,
  digestOf,
  directoryOf,
  encodeDirectory,
  formatDigestText,
  type Node,
  parseSymlinkTarget,
  pathComponentOfText,
} from "@castore/castore";
import { describe, expect, it } from "vitest";
import type { MountOptions } from "../src/mount.ts";
import {
  createMemoryStore,
  type MemoryStore,
  type MountedStore,
  mountTemporary,
  output,
  run,
} from "./mount-fixture.ts";

/** The fixtures of snix's own FUSE tests. */
const BLOB_A = Buffer.from([0x00, 0x01]);
const BLOB_B = Buffer.from(Uint8Array.from({ length: 4096 * 255 }, (_, i) => i % 255));
const WITH_KEEP = "8b5b5d642b646bb8ed504b0862c39413e87e57491497de7bd075953f7b83810e";
const HELLO = Buffer.from("Hello World!");

async function fileOf(store: MemoryStore, bytes: Uint8Array, executable = false): Promise<Node> {
  const { digest, size } = await store.blobs.put([bytes]);
  return { type: "file", digest, size, executable };
}

function linkTo(target: string): Node {
  return { type: "symlink", target: parseSymlinkTarget(Buffer.from(target)) };
}

async function directoryIn(
  store: MemoryStore,
  entries: Readonly<Record<string, Node>>,
): Promise<Node> {
  const named = Object.entries(entries);
  const directory = directoryOf(
    named.map(([name, node]) => ({ name: pathComponentOfText(name), node })),
  );
  await store.directories.putClosure([directory]);
  return {
    type: "directory",
    digest: digestOf(encodeDirectory(directory)),
    size: directory.size,
  };
}

const withKeep = async (store: MemoryStore): Promise<Node> =>
  directoryIn(store, { ".keep": await fileOf(store, new Uint8Array()) });

const complicated = async (store: MemoryStore): Promise<Node> =>
  directoryIn(store, {
    ".keep": await fileOf(store, new Uint8Array()),
    aa: linkTo("/nix/store/somewhereelse"),
    keep: await withKeep(store),
  });

function set(store: MemoryStore, name: string, node: Node): void {
  store.roots.set(pathComponentOfText(name), { node });
}

async function mounted(
  fill: (store: MemoryStore) => Promise<void>,
  options: Partial<MountOptions> = {},
): Promise<MountedStore & { readonly at: string }> {
  const store = createMemoryStore();
  await fill(store);
  const mount = await mountTemporary(store, options);
  return Object.assign(mount, { at: `${mount.base}/mnt` });
}

describe("snix's cases", () => {
  it("mount: mounts and unmounts", async () => {
    await using m = await mounted(async () => {});
    expect(await output("cat /proc/mounts")).toContain(` ${m.at} fuse.castore ro,`);
    await m.mount.unmount();
    expect(await output("cat /proc/mounts")).not.toContain(m.at);
  });

  it("root: a root that is not to be listed is not permitted to be", async () => {
    await using m = await mounted(async () => {});
    const { status, stderr } = await run(`ls '${m.at}'`);
    expect(status).not.toBe(0);
    expect(stderr).toContain("Operation not permitted");
  });

  it("root_with_listing: shows one file, read-only, with its size", async () => {
    await using m = await mounted(async (s) => set(s, "hello", await fileOf(s, HELLO)), {
      listRoot: true,
    });
    expect(await output(`find '${m.at}' -mindepth 1 -printf '%f %y %m %s\n'`)).toBe(
      "hello f 444 12\n",
    );
  });

  it("stat_file_at_root: regular, read-only, of its length", async () => {
    await using m = await mounted(async (s) => set(s, "a", await fileOf(s, BLOB_A)));
    expect(await output(`stat -c '%F %a %s' '${m.at}/a'`)).toBe("regular file 444 2\n");
  });

  it("read_file_at_root: gives the blob", async () => {
    await using m = await mounted(async (s) => set(s, "a", await fileOf(s, BLOB_A)));
    expect(await output(`cat '${m.at}/a'`)).toBe(BLOB_A.toString("latin1"));
  });

  it("read_large_file_at_root: has the size and the bytes", async () => {
    await using m = await mounted(async (s) => set(s, "b", await fileOf(s, BLOB_B)));
    expect(await output(`stat -c %s '${m.at}/b'`)).toBe("1044480\n");
    expect((await output(`cat '${m.at}/b'`)) === BLOB_B.toString("latin1")).toBe(true);
  });

  it("symlink_readlink: tells the target; what it leads to is not there", async () => {
    await using m = await mounted(async (s) => set(s, "l", linkTo("/nix/store/somewhereelse")));
    expect(await output(`readlink '${m.at}/l'`)).toBe("/nix/store/somewhereelse\n");
    expect(await output(`stat -c %F '${m.at}/l'`)).toBe("symbolic link\n");
    for (const command of ["stat -L", "cat"]) {
      expect((await run(`${command} '${m.at}/l'`)).stderr).toContain("No such file");
    }
  });

  it("read_stat_through_symlink: is the same file", async () => {
    await using m = await mounted(async (s) => {
      set(s, "a", await fileOf(s, HELLO));
      set(s, "l", linkTo("a"));
    });
    expect(await output(`cat '${m.at}/l'`)).toBe("Hello World!");
    expect(await output(`stat -L -c '%F %s %i' '${m.at}/l'`)).toBe(
      await output(`stat -c '%F %s %i' '${m.at}/a'`),
    );
  });

  it("read_stat_directory: is a directory, read-only", async () => {
    await using m = await mounted(async (s) => set(s, "d", await withKeep(s)));
    expect(await output(`stat -c '%F %a' '${m.at}/d'`)).toBe("directory 555\n");
  });

  it("uid_gid_override: everything belongs to that owner", async () => {
    await using m = await mounted(async (s) => set(s, "d", await complicated(s)), {
      owner: { uid: 1000, gid: 100 },
    });
    const owners = await output(`find '${m.at}/d' -printf '%U:%G\n' | sort -u`);
    expect(owners).toBe("1000:100\n");
  });

  it("xattr: exactly one name, the digest; others have no data", async () => {
    await using m = await mounted(
      async (s) => {
        set(s, "a", await fileOf(s, HELLO));
        set(s, "d", await withKeep(s));
      },
      { xattr: true },
    );
    const script = (path: string, kind: string): string => `python3 - <<'PY'
import os, errno
p = ${JSON.stringify(path)}
print(os.listxattr(p), os.getxattr(p, "user.snix.castore.${kind}.digest").decode())
for name in ("user.other", "user.snix.castore.${kind === "blob" ? "directory" : "blob"}.digest"):
    try: os.getxattr(p, name)
    except OSError as e: print(errno.errorcode[e.errno])
PY`;
    for (const [name, kind, text] of [
      ["a", "blob", formatDigestText(digestOf(HELLO))],
      ["d", "directory", `blake3-${Buffer.from(WITH_KEEP, "hex").toString("base64")}`],
    ] as const) {
      const printed = await output(script(`${m.at}/${name}`, kind));
      expect(printed.startsWith(`['user.snix.castore.${kind}.digest'] ${text}`)).toBe(true);
      expect(printed.endsWith("\nENODATA\nENODATA\n")).toBe(true);
    }
  });

  it("read_blob_inside_dir and read_blob_deep_inside_dir: an empty file", async () => {
    await using m = await mounted(async (s) => set(s, "d", await complicated(s)));
    expect(await output(`stat -c %s '${m.at}/d/.keep' '${m.at}/d/keep/.keep'`)).toBe("0\n0\n");
    expect(await output(`cat '${m.at}/d/.keep' '${m.at}/d/keep/.keep'`)).toBe("");
  });

  it("readdir and readdir_deep: names, types and sizes in order of name", async () => {
    await using m = await mounted(async (s) => set(s, "d", await complicated(s)));
    const listed = await output(`find '${m.at}/d' -mindepth 1 -printf '%P %y %s\n'`);
    expect(listed).toBe(".keep f 0\naa l 24\nkeep d 2\nkeep/.keep f 0\n");
  });

  it("check_attributes: modes, sizes, owners and times", async () => {
    await using m = await mounted(async (s) => {
      set(s, "d", await complicated(s));
      set(s, "x", await fileOf(s, HELLO, true));
      set(s, "f", await fileOf(s, HELLO));
    });
    const stat = (path: string) => output(`stat -c '%a %s %u:%g %X %Y %Z %h' '${m.at}/${path}'`);
    expect(await stat("d")).toBe("555 8 0:0 0 1 0 1\n");
    expect(await stat("x")).toBe("555 12 0:0 0 1 0 1\n");
    expect(await stat("f")).toBe("444 12 0:0 0 1 0 1\n");
    expect(await stat("d/aa")).toBe("444 24 0:0 0 1 0 1\n");
  });

  it.each([
    ["directories", "d", "e"],
    ["files", "f", "g"],
    ["symlinks", "k", "l"],
  ])("compare_inodes_%s: distinct per position, stable across lookups", async (_, a, b) => {
    await using m = await mounted(async (s) => {
      for (const name of ["d", "e"]) set(s, name, await complicated(s));
      for (const name of ["f", "g"]) set(s, name, await fileOf(s, HELLO));
      for (const name of ["k", "l"]) set(s, name, linkTo("a"));
    });
    const inodes = () => output(`stat -c %i '${m.at}/${a}' '${m.at}/${b}'`);
    const first = await inodes();
    expect(new Set(first.trim().split("\n")).size).toBe(2);
    await output(`find '${m.at}/${a}' '${m.at}/${b}'`);
    expect(await inodes()).toBe(first);
  });

  it("read_wrong_paths_in_root: only exact names are there", async () => {
    await using m = await mounted(async (s) => set(s, "abc-hello", await fileOf(s, HELLO)));
    for (const name of ["abc", "abc-hell", "abc-hello2", "ABC-hello", "abc-hello/x", "-hello"]) {
      expect((await run(`stat '${m.at}/${name}'`)).status, name).not.toBe(0);
    }
    expect(await output(`cat '${m.at}/abc-hello'`)).toBe("Hello World!");
  });

  it("disallow_writes: the file system is read-only", async () => {
    await using m = await mounted(async (s) => set(s, "a", await fileOf(s, HELLO)));
    for (const command of ["touch A/new", "echo >A/a", "rm A/a", "mkdir A/d", "chmod 777 A/a"]) {
      const { stderr } = await run(command.replace("A", m.at));
      expect(stderr, command).toContain("Read-only file system");
    }
  });

  it("missing_directory: can be looked at, but not into", async () => {
    await using m = await mounted(async (s) => set(s, "d", await complicated(s)), {
      directories: createMemoryDirectoryService(),
    });
    expect(await output(`stat -c %F '${m.at}/d'`)).toBe("directory\n");
    expect((await run(`ls '${m.at}/d'`)).stderr).toContain("Input/output error");
    expect((await run(`stat '${m.at}/d/.keep'`)).stderr).toContain("Input/output error");
  });

  it("missing_blob: can be looked at, but not read", async () => {
    await using m = await mounted(async (s) =>
      set(s, "a", { type: "file", digest: digestOf(HELLO), size: 12, executable: false }),
    );
    expect(await output(`stat -c %s '${m.at}/a'`)).toBe("12\n");
    expect((await run(`cat '${m.at}/a'`)).stderr).toContain("Input/output error");
    expect(m.log.join()).toContain(`blob ${digestOf(HELLO)}: absent`);
  });
});
