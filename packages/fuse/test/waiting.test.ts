import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  type BlobService,
  CastoreError,
  type DirectoryService,
  digestOf,
  directoryOf,
  encodeDirectory,
  type Node,
  type PathComponent,
  pathComponentOfText,
  type RootNodes,
} from "@castore/castore";
import { describe, expect, it } from "vitest";
import {
  createMemoryStore,
  type MemoryStore,
  mountTemporary,
  output,
  run,
} from "./mount-fixture.ts";

const name = pathComponentOfText;

/** Lets through what was asked for only when told; counts who asked. */
class Gate {
  asked = 0;
  #open: () => void = () => {};
  #opened: Promise<void> = new Promise((resolve) => {
    this.#open = resolve;
  });
  readonly #knocks: (() => void)[] = [];

  async pass(): Promise<void> {
    this.asked++;
    for (const knock of this.#knocks.splice(0)) knock();
    await this.#opened;
  }

  /** Resolves once somebody asks. */
  knock(): Promise<void> {
    return new Promise((resolve) => this.#knocks.push(resolve));
  }

  open(): void {
    this.#open();
  }
}

function gatedBlobs(blobs: BlobService, gate: Gate): BlobService {
  return {
    ...blobs,
    async open(digest, options) {
      await gate.pass();
      return blobs.open(digest, options);
    },
  };
}

function gatedDirectories(directories: DirectoryService, gate: Gate): DirectoryService {
  return {
    ...directories,
    async get(digest, options) {
      await gate.pass();
      return directories.get(digest, options);
    },
    async *getClosure(root, options) {
      await gate.pass();
      yield* directories.getClosure(root, options);
    },
  };
}

function gatedRoots(roots: RootNodes, gate: Gate): RootNodes {
  return {
    ...roots,
    async get(component, options) {
      await gate.pass();
      return roots.get(component, options);
    },
  };
}

async function fillStore(): Promise<MemoryStore & { readonly node: Node }> {
  const store = createMemoryStore();
  const { digest, size } = await store.blobs.put([Buffer.from("Hello World!")]);
  const file: Node = { type: "file", digest, size, executable: false };
  const directory = directoryOf([{ name: name("file"), node: file }]);
  await store.directories.putClosure([directory]);
  const node: Node = {
    type: "directory",
    digest: digestOf(encodeDirectory(directory)),
    size: directory.size,
  };
  store.roots.set(name("d"), { node });
  return { ...store, node };
}

describe.each(["content", "entries", "name"] as const)("a stalled fetch of a %s", (what) => {
  async function stalled(timeoutMs: number) {
    const { node: _, ...store } = await fillStore();
    const gate = new Gate();
    const mounted = await mountTemporary(store, {
      timeoutMs,
      ...(what === "content" ? { blobs: gatedBlobs(store.blobs, gate) } : {}),
      ...(what === "entries" ? { directories: gatedDirectories(store.directories, gate) } : {}),
      ...(what === "name" ? { roots: gatedRoots(store.roots, gate) } : {}),
    });
    return Object.assign(mounted, { gate, file: `${mounted.base}/mnt/d/file` });
  }

  it("ends with EIO after the time limit, goes on, and the next try succeeds", async () => {
    await using m = await stalled(200);
    const { status, stderr } = await run(`cat '${m.file}'`);
    expect(status).toBe(1);
    expect(stderr).toContain("Input/output error");
    expect(m.log.join("\n")).toContain("no answer within 0.2 s");
    m.gate.open();
    expect(await output(`cat '${m.file}'`)).toBe("Hello World!");
    expect(m.gate.asked).toBe(1);
  });

  it("can be left by a program that is killed", async () => {
    await using m = await stalled(60_000);
    const asked = m.gate.knock();
    const child = spawn("cat", [m.file]);
    const exited = once(child, "exit");
    await asked;
    child.kill("SIGKILL");
    expect(await exited).toEqual([null, "SIGKILL"]);
    m.gate.open();
    expect(await output(`cat '${m.file}'`)).toBe("Hello World!");
  });

  it("is one fetch however many wait for it", async () => {
    await using m = await stalled(60_000);
    const asked = m.gate.knock();
    const readers = Array.from({ length: 40 }, () => output(`cat '${m.file}'`));
    await asked;
    m.gate.open();
    expect(new Set(await Promise.all(readers))).toEqual(new Set(["Hello World!"]));
    expect(m.gate.asked).toBe(1);
  });

  it("ends for all who wait when the mount is closed", async () => {
    await using m = await stalled(60_000);
    const asked = m.gate.knock();
    const waiting = run(`cat '${m.file}'`);
    await asked;
    await m.mount.close();
    expect((await waiting).status).toBe(1);
  });
});

describe("a failure", () => {
  it("is not remembered", async () => {
    const { node: _, ...store } = await fillStore();
    let down = true;
    const roots: RootNodes = {
      ...store.roots,
      async get(component, options) {
        if (down) throw new CastoreError("UNAVAILABLE", "upstream: down");
        return store.roots.get(component, options);
      },
    };
    await using m = await mountTemporary(store, { roots });
    expect((await run(`cat '${m.base}/mnt/d/file'`)).stderr).toContain("Input/output error");
    down = false;
    expect(await output(`cat '${m.base}/mnt/d/file'`)).toBe("Hello World!");
  });

  it("of a blob that is shorter than its node says gives EIO, never zeros", async () => {
    const { node: _, ...store } = await fillStore();
    const { digest } = await store.blobs.put([Buffer.from("Hello World!")]);
    store.roots.set(name("f"), { node: { type: "file", digest, size: 13, executable: false } });
    await using m = await mountTemporary(store);
    const { status, stdout } = await run(`cat '${m.base}/mnt/f'`);
    expect([status, stdout]).toEqual([1, ""]);
    expect(m.log.join("\n")).toContain("12 bytes instead of 13");
  });
});

describe("the root", () => {
  it("asks again for a name that was absent, after a second or a change", async () => {
    const { node, ...store } = await fillStore();
    const asked: PathComponent[] = [];
    const roots: RootNodes = {
      ...store.roots,
      async get(component, options) {
        asked.push(component);
        return store.roots.get(component, options);
      },
    };
    await using m = await mountTemporary(store, { roots, listRoot: true });
    const at = `${m.base}/mnt`;
    expect((await run(`stat '${at}/e'`)).status).toBe(1);
    expect(asked).toEqual(["e"]);
    expect(await output(`ls '${at}'`)).toBe("d\n");
    store.roots.set(name("e"), { node });
    expect(await output(`until ls '${at}' | grep e; do :; done`)).toBe("e\n");
    expect(await output(`cat '${at}/e/file'`)).toBe("Hello World!");
    store.roots.set(name("d"), undefined);
    expect(await output(`while stat '${at}/d' >&2; do :; done; ls '${at}'`)).toBe("e\n");
  });

  it("keeps what was looked up or opened from being collected, and nothing else", async () => {
    const { node, ...store } = await fillStore();
    for (const other of ["e", "f"]) store.roots.set(name(other), { node });
    await using m = await mountTemporary(store, { listRoot: true });
    const at = `${m.base}/mnt`;
    expect(await output(`ls -l '${at}' | wc -l`)).toBe("4\n");
    expect([...store.roots.held]).toEqual([]);
    await output(`stat '${at}/d'; cat '${at}/f/file'`);
    expect(store.roots.held.has(name("f"))).toBe(true);
    expect(store.roots.held.has(name("e"))).toBe(false);
  });
});

describe("what the kernel has seen", () => {
  it("is not asked for again: names, absent names, listings, links, contents", async () => {
    const { node: _, ...store } = await fillStore();
    await using m = await mountTemporary(store, { listRoot: true });
    const at = `${m.base}/mnt`;
    const look = `ls -lR '${at}'; cat '${at}/d/file'; stat '${at}/d/absent'; true`;
    await output(look);
    const before = m.mount.requests();
    await output(`${look}; ${look}`);
    expect(m.mount.requests() - before).toBe(0);
    expect(m.mount.requests("OPEN") + m.mount.requests("OPENDIR")).toBeLessThanOrEqual(2);
  });
});
